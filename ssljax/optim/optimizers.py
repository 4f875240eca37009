"""The recipes' optimisers, as the official codes mean them; a learning rate is a float or a schedule."""

import optax

from ssljax.optim.masks import Mask, weight_mask
from ssljax.optim.scheduled import Optimizer, as_schedule, scheduled
from ssljax.optim.schedules import Schedule
from ssljax.types import BadInputError

LearningRate = float | Schedule


def sgd(
    learning_rate: LearningRate,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    mask: Mask = None,
    nesterov: bool = False,
) -> Optimizer:
    """SGD as in torch: weight decay joins the gradient, the learning rate stays outside the momentum.

    Args:
        learning_rate: float, or a schedule of the step.
        momentum: decay of the momentum buffer, in [0, 1).
        weight_decay: added to the gradient as `weight_decay * param`.
        mask: which parameters decay; None is all, biases and norms included, as in MoCo; or `weight_mask`.
        nesterov: look one step ahead.

    Raises:
        BadInputError: a momentum outside [0, 1).

    Reference: torch.optim.SGD without dampening; facebookresearch/moco `main_moco.py`.
    """
    _check_decay("momentum", momentum)
    rate = as_schedule(learning_rate)
    rule = optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
        # a schedule even where it is constant: its state has the count
        optax.scale_by_learning_rate(rate),
    )
    return scheduled(rule, lr=rate)


def lars(
    learning_rate: LearningRate,
    *,
    lr_in_momentum: bool,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    trust_coefficient: float = 0.001,
    mask: Mask = weight_mask,
    nesterov: bool = False,
) -> Optimizer:
    """LARS: each kernel's step is scaled to `trust_coefficient` times its norm.

    The ratio is `trust_coefficient * |param| / |gradient + weight_decay * param|` without an epsilon, and 1
    where either norm is 0, as in the official codes.

    Args:
        learning_rate: float, or a schedule of the step.
        lr_in_momentum: True accumulates `lr * gradient` in the momentum (SimCLR); False multiplies the
            momentum by the present lr (BYOL, MoCo v3, Barlow Twins). They differ while the lr changes.
        momentum: decay of the momentum buffer, in [0, 1).
        weight_decay: added to the masked gradients before the ratio.
        trust_coefficient: eta.
        mask: which parameters get weight decay and the ratio, the others plain momentum SGD. None is all.
        nesterov: look one step ahead.

    Raises:
        BadInputError: a momentum outside [0, 1).

    Reference: arXiv 1708.03888, Algorithm 1; google-research/simclr `lars_optimizer.py`;
    facebookresearch/moco-v3 `moco/optimizer.py`; google-deepmind/deepmind-research
    `byol/utils/optimizers.py`.
    Differs from `optax.lars`, which has the learning rate inside only and adapts norms and biases by default.
    """
    _check_decay("momentum", momentum)
    ratio = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
    rate = as_schedule(learning_rate)
    scale, trace = optax.scale_by_learning_rate(rate), optax.trace(momentum, nesterov)
    rule = optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        ratio if mask is None else optax.masked(ratio, mask),
        *((scale, trace) if lr_in_momentum else (trace, scale)),
    )
    return scheduled(rule, lr=rate)


def adamw(
    learning_rate: LearningRate,
    *,
    weight_decay: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    mask: Mask = weight_mask,
) -> Optimizer:
    """AdamW as in torch: decoupled weight decay, multiplied by the learning rate.

    Args:
        learning_rate: float, or a schedule of the step.
        weight_decay: the parameter shrinks by `learning_rate * weight_decay` a step; float, or a schedule of the step
            such as DINO's, `pace.cosine(.04, end=.4)`.
        b1: decay of the mean, in [0, 1).
        b2: decay of the mean square, in [0, 1).
        eps: added to the root of the bias-corrected mean square.
        mask: which parameters decay; None is all.

    Raises:
        BadInputError: b1 or b2 outside [0, 1).

    Reference: arXiv 1711.05101, Algorithm 2; torch.optim.AdamW; facebookresearch/dino `main_dino.py` (the schedule
    of the weight decay).
    """
    _check_decay("b1", b1)
    _check_decay("b2", b2)
    rule = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
    return scheduled(rule, lr=learning_rate, **({"weight_decay": weight_decay} if callable(weight_decay) else {}))


def _check_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise BadInputError(f"{name}={value}: it must lie in [0, 1).")
