"""The status of a run's processes: which of them holds the others up, and the message that says so."""

import dataclasses
from collections.abc import Sequence

from ssljax.train.hosts import processes
from ssljax.types import BadInputError

BUSY = "busy: "
FAILED = "failed: "
ENDED = "ended"
# words of the errors that another process's end causes: gloo, NCCL, gRPC, jax's coordination service
REMOTE_ERROR_WORDS = (
    *("gloo", "nccl", "connection", "socket", "unavailable", "deadline_exceeded", "barrier", "coordination"),
    *("heartbeat", "unhealthy", "aborted", "peer"),
)


@dataclasses.dataclass(frozen=True)
class Status:
    """What is known of a process at one moment.

    Attributes:
        index: `jax.process_index()`.
        process: its host and pid; None before its first heartbeat in this run.
        step: the last step it has reported, -1 before the first.
        phase: "", or "busy: " and with what, "failed: " and the error, or "ended".
        idle: seconds without progress.
        silent: seconds since its last heartbeat.
        location: the line of code its main thread is in.
        condition: what the kernel knows of a process of the same machine: "running", "stopped", "gone" or "".
    """

    index: int
    process: processes.ProcessInfo | None = None
    step: int = -1
    phase: str = ""
    idle: float = 0.0
    silent: float = 0.0
    location: str = ""
    condition: str = ""


def stragglers(statuses: Sequence[Status], timeout: float, interval: float) -> list[Status]:
    """The processes that hold the run up; empty while it makes progress or a slow operation is under way.

    Args:
        statuses: of every process.
        timeout: seconds without a step after which a process counts as stuck.
        interval: seconds between heartbeats.
    """
    live = [status for status in statuses if status.phase != ENDED]
    dead = [status for status in live if status.condition == "gone" and not status.phase.startswith(FAILED)]
    patience = min(timeout, interval) if dead else timeout
    lost = dead or [status for status in live if is_lost(status, timeout, interval)]
    present = [status for status in live if status not in lost]
    if any(status.idle < patience and not status.phase.startswith(BUSY) for status in present):
        return []
    if lost:
        return lost if all(status.idle >= patience for status in present + lost) or dead else []
    lowest = [status for status in live if status.step == min(status.step for status in live)]
    return [] if any(status.phase.startswith(BUSY) for status in lowest) else lowest


def is_lost(status: Status, timeout: float, interval: float) -> bool:
    """Whether the process has exited with an error or has missed several heartbeats."""
    return status.phase.startswith(FAILED) or status.silent >= max(3 * interval, timeout / 4)


def stall_message(statuses: Sequence[Status], culprits: Sequence[Status], timeout: float) -> str:
    """The message that names the culprits and the last step of each process."""
    steps = ", ".join(f"process {status.index}: {_step(status)}" for status in statuses)
    dead = all(status.condition == "gone" or status.phase.startswith(FAILED) for status in culprits)
    start = "" if dead else f"No progress for {timeout:g} s: "
    who = "; ".join(_describe(status, len(statuses)) for status in culprits)
    last = f" Last steps: {steps}; all processes exit." if len(statuses) > 1 else ""
    return f"{start}{who}.{last} Run the same command to resume from the last checkpoint."


def _step(status: Status) -> str:
    return "none" if status.step < 0 else str(status.step)


def _describe(status: Status, process_count: int) -> str:
    if status.process is None:
        return f"process {status.index} has sent no heartbeat"
    who = f"process {status.index} (pid {status.process.pid} on {status.process.host})"
    where = f"last step {_step(status)}, last heartbeat {status.silent:.0f} s ago"
    if status.phase.startswith(FAILED):
        return f"{who} {status.phase}; {where}"
    if status.condition == "gone":
        return f"{who} is gone (killed?); {where}"
    if status.condition == "stopped":
        return f"{who} is behind: it is stopped (SIGSTOP); {where}"
    stuck = f"; it is in {status.location}" if status.location and status.silent < status.idle else ""
    return f"{who} is {'behind' if process_count > 1 else 'stuck'}: {where}{stuck}"


def is_remote_error(error: BaseException) -> bool:
    """Whether the error reads like one that another process's end causes."""
    text = str(error).lower()
    return not isinstance(error, BadInputError) and any(word in text for word in REMOTE_ERROR_WORDS)
