"""Evaluations of a frozen encoder, and the numbers of the published linear protocols."""

import dataclasses
import math
from typing import Literal

from ssljax.types import BadInputError


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """The numbers of a linear probe; the defaults are MoCo v1's and v2's.

    Attributes:
        epochs: passes over the training examples.
        batch_size: examples of one step over all devices.
        learning_rate: at the start and for this batch size; it changes at the ends of epochs only.
        schedule: "step" multiplies by `decay` at each of `milestones` (epochs), "cosine" goes to 0.
        milestones: epochs, from 0, at which "step" decays.
        decay: factor of one such step.
        momentum: momentum of SGD.
        weight_decay: added to the gradient, bias included, as in torch's SGD.
        lars: scale each leaf's gradient by 0.001 |w| / |g| first (apex' LARC without clipping).
        init_std: standard deviation of the initial weights; the bias starts at 0.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 30.0
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = (60, 80)
    decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    lars: bool = False
    init_std: float = 0.01

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise BadInputError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, learning_rate={self.learning_rate}: "
                "give all three above 0."
            )

    def rate(self, epoch: int) -> float:
        """The learning rate in epoch `epoch`, counted from 0.

        >>> [round(ProbeConfig().rate(epoch), 3) for epoch in (0, 59, 60, 80)]
        [30.0, 30.0, 3.0, 0.3]
        """
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return self.learning_rate * self.decay ** sum(epoch >= milestone for milestone in self.milestones)


MOCO = ProbeConfig()
MOCO_V3_R50 = ProbeConfig(epochs=90, batch_size=1024, learning_rate=0.4, schedule="cosine")
SIMSIAM = ProbeConfig(epochs=90, batch_size=4096, learning_rate=1.6, schedule="cosine", lars=True)
SWAV = ProbeConfig(learning_rate=0.3, schedule="cosine", weight_decay=1e-6)
