"""BERT's optimisers and learning rates: AdamW without bias correction, LAMB, and their warm-ups and decays."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax.optim.masks import Mask, weight_mask
from ssljax.optim.optimizers import LearningRate, _check_decay
from ssljax.optim.scheduled import Optimizer, scheduled
from ssljax.optim.schedules import Schedule
from ssljax.types import BadInputError


def bert_adamw(
    learning_rate: LearningRate,
    *,
    weight_decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    clip: float | None = 1.0,
    mask: Mask = weight_mask,
) -> Optimizer:
    """BERT's AdamW: gradients clipped together, no bias correction, decoupled weight decay times the rate.

    Without the correction the first steps are `(1 - b1) / sqrt(1 - b2)`, about 3, times longer than Adam's. BERT
    was trained and is fine-tuned so, behind a warm-up.

    Args:
        learning_rate: float, or a schedule of the step; BERT's is `linear_with_warmup`.
        weight_decay: the parameter shrinks by `learning_rate * weight_decay` a step.
        b1: decay of the mean, in [0, 1).
        b2: decay of the mean square, in [0, 1).
        eps: added to the root of the mean square.
        clip: the largest global norm of the gradients, longer ones are shortened to it; None for no clipping.
        mask: which parameters decay; by default all but biases and LayerNorm's scales. None is all.

    Raises:
        BadInputError: b1 or b2 outside [0, 1), or a clip that is not positive.

    Reference: arXiv 1810.04805, appendix A.2; google-research/bert `optimization.py`.
    Differs from the paper, which does not say that the bias correction is left out.
    """
    _check_decay("b1", b1)
    _check_decay("b2", b2)
    rule = optax.chain(
        _clip(clip),
        _scale_by_moments(b1, b2, eps, None),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return scheduled(rule, lr=learning_rate)


def lamb(
    learning_rate: LearningRate,
    *,
    weight_decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    clip: float | None = 1.0,
    mask: Mask = weight_mask,
    restarts: Sequence[int] = (),
) -> Optimizer:
    """LAMB: Adam's step with weight decay, scaled for each decayed tensor to the norm of that tensor.

    The ratio is `|param| / |step|` without bounds, and 1 where either norm is 0.

    Args:
        learning_rate: float, or a schedule of the step; NVIDIA's is `polynomial_with_warmup`.
        weight_decay: added to the step as `weight_decay * param`, before the ratio.
        b1: decay of the mean, in [0, 1).
        b2: decay of the mean square, in [0, 1).
        eps: added to the root of the corrected mean square.
        clip: the largest global norm of the gradients, longer ones are shortened to it; None for no clipping.
        mask: which parameters get weight decay and the ratio, the others Adam's step. None is all.
        restarts: steps before which the bias correction counts from 0 again while the moments stay: where NVIDIA's
            second phase begins (7038).

    Raises:
        BadInputError: b1 or b2 outside [0, 1), a clip that is not positive, or restarts that do not rise from 1 up.

    Reference:
        arXiv 1904.00962, Algorithm 2; NVIDIA/apex `apex/optimizers/fused_lamb.py` with its defaults and
        NVIDIA/DeepLearningExamples `PyTorch/LanguageModeling/BERT/run_pretraining.py`.

    Differs from the paper:
        The gradients are clipped together first, norms and biases take no ratio, and phi is the identity.
    """
    _check_decay("b1", b1)
    _check_decay("b2", b2)
    if any(late <= early for early, late in zip((0, *restarts), restarts, strict=False)):
        raise BadInputError(f"restarts={tuple(restarts)}: give rising steps, the first at least 1.")
    ratio = optax.scale_by_trust_ratio()
    rule = optax.chain(
        _clip(clip),
        _scale_by_moments(b1, b2, eps, restarts),
        optax.add_decayed_weights(weight_decay, mask),
        ratio if mask is None else optax.masked(ratio, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return scheduled(rule, lr=learning_rate)


def linear_with_warmup(base_lr: float, total_steps: int, warmup_steps: int = 0) -> Schedule:
    """BERT's rate: a line from `base_lr` at step 0 to 0 at `total_steps`, whose first steps a warm-up replaces.

    The rate jumps down at the end of the warm-up, from nearly `base_lr` to what the line has reached there.

    Args:
        base_lr: what the warm-up aims at.
        total_steps: where the rate is 0; it stays there.
        warmup_steps: steps before this one have the rate `base_lr * step / warmup_steps`, 0 at step 0.

    Returns:
        step -> float32 scalar. Steps count from 0.

    Raises:
        BadInputError: a warm-up that is negative or leaves no step for the decay.

    Reference: arXiv 1810.04805, appendix A.2; google-research/bert `optimization.py`.

    >>> schedule = linear_with_warmup(1.0, total_steps=8, warmup_steps=2)
    >>> [float(schedule(step)) for step in range(4)]
    [0.0, 0.5, 0.75, 0.625]
    """
    if not 0 <= warmup_steps < total_steps:
        raise BadInputError(f"warmup_steps={warmup_steps}: it must be 0 or more and below total_steps={total_steps}.")

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        # the difference of two whole numbers is exact, 1 - step / total_steps is not
        decayed = base_lr * (jnp.maximum(total_steps - step, 0) / total_steps)
        return jnp.where(step < warmup_steps, base_lr * (step / max(warmup_steps, 1)), decayed)

    return schedule


def polynomial_with_warmup(base_lr: float, total_steps: int, warmup: float, degree: float = 0.5) -> Schedule:
    """NVIDIA's rate for LAMB: `base_lr * (1 - progress) ** degree`, whose first part a linear warm-up replaces.

    The scheduler moves before the optimiser, so the update at step s, counted from 0, has the progress
    `(s + 1) / total_steps`: the first rate is not 0, the last one is.

    Args:
        base_lr: what the warm-up aims at.
        total_steps: the number of steps of the phase; the rate stays 0 after them.
        warmup: share of the steps that warm up, in [0, 1): while progress is below it, the rate is
            `base_lr * progress / warmup`.
        degree: exponent of the decay.

    Returns:
        step -> float32 scalar.

    Raises:
        BadInputError: no steps, or a warm-up outside [0, 1).

    Reference: NVIDIA/DeepLearningExamples `PyTorch/LanguageModeling/BERT/schedulers.py`, PolyWarmUpScheduler.

    >>> schedule = polynomial_with_warmup(1.0, total_steps=4, warmup=0.5)
    >>> [round(float(schedule(step)), 4) for step in range(4)]
    [0.5, 0.7071, 0.5, 0.0]
    """
    if total_steps < 1:
        raise BadInputError(f"total_steps={total_steps}: give at least one step.")
    if not 0 <= warmup < 1:
        raise BadInputError(f"warmup={warmup}: it is a share of the steps, in [0, 1).")

    def schedule(step):
        done = jnp.asarray(step, jnp.float32) + 1
        progress, left = done / total_steps, jnp.maximum(total_steps - done, 0) / total_steps
        return jnp.where(progress < warmup, base_lr * progress / (warmup or 1.0), base_lr * left**degree)

    return schedule


def in_phases(*phases: tuple[int, Schedule]) -> Schedule:
    """Schedules one after another, each counting its own steps from 0; the last one goes on.

    Args:
        *phases: `(steps, schedule)` in order.

    Returns:
        step -> value.

    Raises:
        BadInputError: no phase, or one without steps.

    >>> schedule = in_phases((2, lambda step: step), (2, lambda step: 10 + step))
    >>> [int(schedule(step)) for step in range(5)]
    [0, 1, 10, 11, 12]
    """
    lengths = [steps for steps, _ in phases]
    if not phases or min(lengths) < 1:
        raise BadInputError(f"phases of {lengths} steps: give at least one phase, each of at least one step.")
    starts = np.cumsum([0, *lengths[:-1]])

    def schedule(step):
        value = phases[0][1](step)
        for start, (_, later) in zip(starts[1:].tolist(), phases[1:], strict=True):
            value = jnp.where(step < start, value, later(step - start))
        return jnp.asarray(value)

    return schedule


def _clip(norm: float | None) -> optax.GradientTransformation:
    if norm is None:
        return optax.identity()
    if not norm > 0:
        raise BadInputError(f"clip={norm}: give a norm above 0, or None for no clipping.")
    return optax.clip_by_global_norm(norm)


def _scale_by_moments(b1, b2, eps, restarts: Sequence[int] | None) -> optax.GradientTransformation:
    """Adam's step; `restarts` None leaves the bias correction out, else it counts from the last of them."""

    def init(params):
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *zeros)

    def correction(decay, count):
        if restarts is None:
            return 1.0
        # the update number count is the one at step count - 1
        last = functools.reduce(lambda found, start: jnp.where(count > start, start, found), restarts, 0)
        return 1 - decay ** (count - last)

    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        first, second = correction(b1, count), correction(b2, count)
        steps = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), mu, nu)
        return steps, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
