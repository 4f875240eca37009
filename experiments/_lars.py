"""What the experiments with LARS share: its options, and the optimizer over half a cosine."""

import dataclasses
from typing import Any

from ssljax import optim


@dataclasses.dataclass(frozen=True)
class LarsOptions:
    """The papers' options; a recipe overrides the defaults."""

    learning_rate: float = 1.0
    """Peak learning rate for a batch of 256, scaled with the batch size; half a cosine after the warm-up."""
    warmup_epochs: int = 10
    """Epochs of linear warm-up."""
    sgd_momentum: float = 0.9
    """Momentum of LARS."""
    weight_decay: float = 1e-4
    """Weight decay, on kernels only."""


def lars(config: Any, pace: optim.Pace, *, lr_in_momentum: bool) -> optim.Optimizer:
    """LARS at a rate that changes at every step; `lr_in_momentum` as `optim.lars`."""
    peak = optim.scaled_lr(config.learning_rate, config.batch_size)
    rate = pace.cosine(peak, warmup_epochs=config.warmup_epochs)
    return optim.lars(
        rate, lr_in_momentum=lr_in_momentum, momentum=config.sgd_momentum, weight_decay=config.weight_decay
    )
