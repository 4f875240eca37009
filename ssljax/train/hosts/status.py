"""Signs of life of a run's processes: which of them holds the others up, and how to say so."""

import dataclasses
from collections.abc import Sequence

from ssljax.train.hosts import processes
from ssljax.types import BadInputError

BUSY = "busy: "
FAILED = "failed: "
ENDED = "ended"
# how errors read that come from another process's end: gloo, NCCL, gRPC, jax's coordination service
FROM_OUTSIDE = (
    *("gloo", "nccl", "connection", "socket", "unavailable", "deadline_exceeded", "barrier", "coordination"),
    *("heartbeat", "unhealthy", "aborted", "peer"),
)


@dataclasses.dataclass(frozen=True)
class Sign:
    """What is known of a process at a moment.

    Attributes:
        index: `jax.process_index()`.
        owner: host and pid; None for a process that has not been heard of in this run.
        step: the last it has reported, -1 before the first.
        phase: "", or "busy: " and what with, "failed: " and the error, or "ended".
        idle: seconds since it last moved.
        silent: seconds since it was last heard of.
        place: the line its main thread is in.
        condition: what the kernel says of a process of the same machine: "running", "stopped", "gone" or "".
    """

    index: int
    owner: processes.Owner | None = None
    step: int = -1
    phase: str = ""
    idle: float = 0.0
    silent: float = 0.0
    place: str = ""
    condition: str = ""


def behind(signs: Sequence[Sign], timeout: float, interval: float) -> list[Sign]:
    """The processes that hold the run up; empty while it moves or something that may take long is under way.

    Args:
        signs: of every process.
        timeout: seconds without a step that are too many.
        interval: seconds between beats.
    """
    live = [sign for sign in signs if sign.phase != ENDED]
    dead = [sign for sign in live if sign.condition == "gone" and not sign.phase.startswith(FAILED)]
    patience = min(timeout, interval) if dead else timeout
    gone = dead or [sign for sign in live if is_lost(sign, timeout, interval)]
    there = [sign for sign in live if sign not in gone]
    if any(sign.idle < patience and not sign.phase.startswith(BUSY) for sign in there):
        return []
    if gone:
        return gone if all(sign.idle >= patience for sign in there + gone) or dead else []
    lowest = [sign for sign in live if sign.step == min(sign.step for sign in live)]
    return [] if any(sign.phase.startswith(BUSY) for sign in lowest) else lowest


def is_lost(sign: Sign, timeout: float, interval: float) -> bool:
    """Whether the process has left with an error or has not been heard of for several beats."""
    return sign.phase.startswith(FAILED) or sign.silent >= max(3 * interval, timeout / 4)


def sentence(signs: Sequence[Sign], culprits: Sequence[Sign], timeout: float) -> str:
    """One message: who is behind, and the last step of each."""
    steps = ", ".join(f"process {sign.index}: {_step(sign)}" for sign in signs)
    dead = all(sign.condition == "gone" or sign.phase.startswith(FAILED) for sign in culprits)
    start = "" if dead else f"No progress for {timeout:g} s: "
    who = "; ".join(_who(sign, len(signs)) for sign in culprits)
    last = f" Last steps: {steps}; all of them end." if len(signs) > 1 else ""
    return f"{start}{who}.{last} The same command takes the run up at the last checkpoint."


def _step(sign: Sign) -> str:
    return "none" if sign.step < 0 else str(sign.step)


def _who(sign: Sign, processes: int) -> str:
    if sign.owner is None:
        return f"process {sign.index} has not been heard of"
    who = f"process {sign.index} (pid {sign.owner.pid} on {sign.owner.host})"
    where = f"last step {_step(sign)}, last heard of {sign.silent:.0f} s ago"
    if sign.phase.startswith(FAILED):
        return f"{who} {sign.phase}; {where}"
    if sign.condition == "gone":
        return f"{who} is gone (killed?); {where}"
    if sign.condition == "stopped":
        return f"{who} is behind: it is stopped (SIGSTOP); {where}"
    stuck = f"; it is in {sign.place}" if sign.place and sign.silent < sign.idle else ""
    return f"{who} is {'behind' if processes > 1 else 'stuck'}: {where}{stuck}"


def from_outside(error: BaseException) -> bool:
    """Whether the error reads like one that another process's end causes."""
    text = str(error).lower()
    return not isinstance(error, BadInputError) and any(word in text for word in FROM_OUTSIDE)
