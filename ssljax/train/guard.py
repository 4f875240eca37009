"""Updates that are not finite: discarded on the device, counted, and read by the host without waiting."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ssljax.types import Array, PyTree

WINDOW = 8  # steps between two looks of the host, and the discarded steps that are remembered in between
TOLERATED = 5  # discarded updates in a row that make the run go back to a checkpoint
ROLLBACKS = 3  # how often it goes back before it gives up


class DivergedError(RuntimeError):
    """The losses stay non-finite whatever is tried; the message says where."""


@struct.dataclass
class Guard:
    """What the run knows of its discarded updates; a part of the train state.

    Attributes:
        total: int32 scalar, updates discarded so far.
        in_a_row: int32 scalar, the latest of them without a good one in between.
        tripped: int32 scalar, the step at which `TOLERATED` in a row were reached; 0 if not since the last roll-back.
        recent: int32[WINDOW], the numbers of the latest discarded steps, newest first; -1 where there are none.
        rollbacks: int32 scalar, how often the run has gone back to a checkpoint.
        shift: int32 scalar, by how much the data is ahead of the step: step n reads batch n + `shift`.
    """

    total: Array
    in_a_row: Array
    tripped: Array
    recent: Array
    rollbacks: Array
    shift: Array

    @classmethod
    def new(cls) -> "Guard":
        """The guard at the start of a run."""
        # a donated state may not hold one buffer twice
        total, in_a_row, tripped, rollbacks, shift = (jnp.zeros((), jnp.int32) for _ in range(5))
        return cls(total, in_a_row, tripped, jnp.full((WINDOW,), -1, jnp.int32), rollbacks, shift)


def admit(guard: Guard, step: Array, sound: Array, new: PyTree, old: PyTree) -> tuple[Guard, PyTree]:
    """`new` where the update is sound, `old` to the last bit where it is not; pure, without control flow.

    Args:
        guard: before the step.
        step: int32 scalar, the number of the step, from 1.
        sound: bool scalar, whether loss, gradient and update are finite.
        new: the state after the update.
        old: the state before it, a tree of the same structure.

    Returns:
        The guard after the step, and the state.
    """
    in_a_row = jnp.where(sound, 0, guard.in_a_row + 1)
    remembered = jnp.concatenate([step[None], guard.recent[:-1]])
    guard = dataclasses.replace(
        guard,
        total=guard.total + jnp.where(sound, 0, 1),
        in_a_row=in_a_row,
        tripped=jnp.where((guard.tripped == 0) & (in_a_row >= TOLERATED), step, guard.tripped),
        recent=jnp.where(sound, guard.recent, remembered),
    )
    return guard, jax.tree.map(lambda after, before: jnp.where(sound, after, before), new, old)


def rolled_back(restored: Any, guard: Guard) -> Any:
    """The state of a checkpoint, moved on to the data after the batches whose updates were not finite.

    When the host learns of it makes no difference to what comes out.

    Args:
        restored: a train state.
        guard: of the run that tripped.
    """
    window = guard.tripped - restored.step
    fresh = dataclasses.replace(
        restored.guard,
        total=guard.total,
        recent=guard.recent,
        rollbacks=guard.rollbacks + 1,
        shift=guard.shift + window,
    )
    return dataclasses.replace(restored, guard=fresh)


class Watch:
    """Looks at the guard every few steps, `WINDOW` at most, one look late, so that the device never waits for the host.

    All processes look at the same steps and so come to the same decision.
    """

    def __init__(self, guard: Guard, discarded: Callable[[int], None], start: int = 0):
        """Start with the guard of step `start`; `discarded(step)` is called once for each discarded update."""
        self.waiting: Any = None
        self.looked = start
        self.seen = int(jax.device_get(guard.total))
        self.discarded = discarded

    def look(self, step: int, guard: Guard, last: bool = False, ahead: int = 1) -> bool:
        """Whether the run has to go back, as far as the look before this one tells; with `last`, as of now.

        `ahead` is how many steps may pass until the next call.
        """
        if step % WINDOW and step - self.looked + ahead <= WINDOW and not last:
            return False
        self.looked = step
        due, self.waiting = self.waiting, guard
        tripped = due is not None and self._read(due)
        return (self._read(guard) if last else False) or tripped

    def _read(self, guard: Guard) -> bool:
        guard = jax.device_get(guard)
        fresh = int(guard.total) - self.seen
        for step in reversed(np.asarray(guard.recent)[: max(fresh, 0)].tolist()):
            self.discarded(int(step))
        self.seen = max(self.seen, int(guard.total))
        return int(guard.tripped) > 0
