"""What the experiments with MoCo v1 and v2 share: their options, the method and SGD."""

import dataclasses
from typing import Any

from ssljax import optim
from ssljax.methods.moco import moco
from ssljax.optim.schedules import Schedule
from ssljax.types import Encoder, Method


@dataclasses.dataclass(frozen=True)
class MoCoOptions:
    """The papers' options; a recipe overrides the defaults."""

    learning_rate: float = 0.03
    """Peak learning rate, for the recipe's batch size."""
    sgd_momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay, on all parameters."""
    queue_size: int = 65536
    """Number of negative keys; a multiple of the keys enqueued per step."""
    momentum: float = 0.999
    """Momentum of the key encoder."""
    temperature: float = 0.2
    """Temperature of the InfoNCE loss."""
    batch_norm_groups: int = 8
    """Number of slices of the batch with separate BatchNorm statistics, as on this many GPUs."""


def method(config: Any, projector: Encoder, *, symmetric: bool = False, **backbone: Any) -> Method:
    """MoCo with a ResNet in groups; `backbone` are further options of `models.resnet.resnet`."""
    return moco(
        config.backbone(groups=config.batch_norm_groups, **backbone),
        projector,
        queue_size=config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
        symmetric=symmetric,
    )


def sgd(config: Any, rate: Schedule) -> optim.Optimizer:
    """SGD at a scheduled rate."""
    return optim.sgd(rate, config.sgd_momentum, config.weight_decay)
