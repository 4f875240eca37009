"""The length of a run, from which its schedules come."""

import dataclasses
from collections.abc import Sequence

from ssljax import ema
from ssljax.optim import schedules
from ssljax.optim.bert import linear_with_warmup
from ssljax.optim.schedules import Schedule
from ssljax.types import BadInputError


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a run is, and the schedules over it: each method returns `step -> float32 scalar`, from step 0.

    Args:
        epochs: passes over the data. A recipe that counts updates is `Pace(updates, 1)`, and what is counted in epochs
            below is then counted in updates.
        steps_per_epoch: optimiser steps of one epoch.

    Raises:
        BadInputError: no epoch, or an epoch without steps.

    >>> pace = Pace(epochs=2, steps_per_epoch=2)
    >>> pace.steps
    4
    >>> [round(float(pace.cosine(1.0)(step)), 4) for step in range(5)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """

    epochs: int
    steps_per_epoch: int

    def __post_init__(self):
        if self.epochs < 1:
            raise BadInputError(f"epochs={self.epochs}: a run needs at least one epoch.")
        if self.steps_per_epoch < 1:
            raise BadInputError(f"steps_per_epoch={self.steps_per_epoch}: an epoch needs at least one step.")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def cosine(self, peak: float, warmup_epochs: int = 0, end: float = 0.0, per_epoch: bool = False) -> Schedule:
        """Half a cosine from `peak` to `end` over the run, after a linear warm-up from 0; see `optim.cosine`.

        Args:
            peak: the value at the end of the warm-up, above or below `end`.
            warmup_epochs: length of the warm-up, part of the run.
            end: the value at the end of the run.
            per_epoch: change at the start of each epoch instead of at each step, as MoCo v1 and v2 do.

        Raises:
            BadInputError: a warm-up that is negative or as long as the run.

        >>> [round(float(Pace(2, 2).cosine(1.0, per_epoch=True)(step)), 4) for step in range(4)]
        [1.0, 1.0, 0.5, 0.5]
        """
        self._check_warmup(warmup_epochs)
        if per_epoch:
            return schedules.per_epoch(schedules.cosine(peak, self.epochs, warmup_epochs, end), self.steps_per_epoch)
        return schedules.cosine(peak, self.steps, warmup_epochs * self.steps_per_epoch, end)

    def line(self, peak: float, warmup_epochs: int = 0) -> Schedule:
        """BERT's line from `peak` to 0 over the run, whose start a warm-up replaces; see `optim.linear_with_warmup`.

        Args:
            peak: what the warm-up aims at.
            warmup_epochs: length of the warm-up, part of the run.

        Raises:
            BadInputError: a warm-up that is negative or as long as the run.

        >>> [float(Pace(8, 1).line(1.0, warmup_epochs=2)(step)) for step in range(4)]
        [0.0, 0.5, 0.75, 0.625]
        """
        self._check_warmup(warmup_epochs)
        return linear_with_warmup(peak, self.steps, warmup_epochs * self.steps_per_epoch)

    def decay(self, start: float, milestones: Sequence[int], factor: float = 0.1) -> Schedule:
        """`start` times `factor` for every milestone reached; see `optim.step_decay`.

        Args:
            start: the first value.
            milestones: the epochs, counted from 0, from whose start on a further factor applies.
            factor: what each milestone multiplies by.

        >>> [float(Pace(3, 2).decay(1.0, [1, 2], factor=0.5)(step)) for step in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
        """
        return schedules.per_epoch(schedules.step_decay(start, milestones, factor), self.steps_per_epoch)

    def rising(self, base: float) -> Schedule:
        """A momentum that rises from `base` to 1 along half a cosine over the run; see `ema.cosine_momentum`.

        Args:
            base: the momentum at step 0, in [0, 1].

        Raises:
            BadInputError: a base outside [0, 1].

        >>> [round(float(Pace(2, 2).rising(0.5)(step)), 4) for step in (0, 2, 4)]
        [0.5, 0.75, 1.0]
        """
        ema.check_momentum(base)
        steps = self.steps
        return lambda step: ema.cosine_momentum(base, step, steps)

    def constant(self, value: float) -> Schedule:
        """`value` at every step."""
        return schedules.constant(value)

    def _check_warmup(self, warmup_epochs: int) -> None:
        if not 0 <= warmup_epochs < self.epochs:
            # a recipe that counts updates has options of these names
            warmup, whole = ("warmup_steps", "steps") if self.steps_per_epoch == 1 else ("warmup_epochs", "epochs")
            raise BadInputError(f"{warmup}={warmup_epochs}: give 0 or more, below {whole}={self.epochs}.")
