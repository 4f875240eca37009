"""Verified checkpoints: saved in the background with a manifest of digests, checked when they are restored.

A save copies the state to the host and returns; a thread computes digests of the copy while orbax (in `store`) writes
it to a temporary directory, the manifest comes last, and a rename commits the step. `restore` returns the newest step
of which every leaf, read back from the devices, has the digest that was saved; damaged ones are moved aside.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import jax
from etils import epath

from ssljax.train.buckets import error_text
from ssljax.train.hosts import agreement, interruption
from ssljax.train.saving import manifest, retention, snapshot, store
from ssljax.train.state import TrainState
from ssljax.types import BadInputError

MAX_FAILURES = 3  # consecutive failed saves, after which the run ends


class SaveError(RuntimeError):
    """A checkpoint could not be saved; the message is one sentence."""


@dataclasses.dataclass
class CheckpointManager:
    """A run's checkpoints; the functions of this module read and update the fields.

    Attributes:
        directory: `workdir/checkpoints`.
        policy: arguments of `retention.steps_to_keep`.
        metadata: of the run, stored in every manifest.
        executor: the thread that saves.
        pending: (step, future) of the save in progress.
        save_count: saves started so far, the same on every process.
        failures: consecutive failed saves.
        messages: not yet shown to the user.
    """

    directory: epath.Path
    policy: dict[str, Any]
    metadata: dict[str, Any]
    executor: ThreadPoolExecutor = dataclasses.field(default_factory=lambda: ThreadPoolExecutor(1, "save"))
    pending: tuple[int, Future] | None = None
    save_count: int = 0
    failures: int = 0
    messages: list[str] = dataclasses.field(default_factory=list)


def open_checkpoints(
    workdir: str,
    *,
    keep: int = 2,
    keep_every: int | None = None,
    best: tuple[str, Literal["max", "min"]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> CheckpointManager:
    """Open `workdir/checkpoints`, creating it if necessary, and remove the files of interrupted saves.

    The caller holds the workdir's lock, so that no other run is saving there.

    Args:
        workdir: the run's directory, local or `gs://`.
        keep: number of most recent checkpoints to keep.
        keep_every: keep the steps that are multiples of it as well.
        best: a metric's name and "max" or "min": keep the best step by the `metrics` of `save` as well.
        metadata: of the run, JSON-serializable; stored in every manifest.

    Raises:
        BadInputError: the directory cannot be written.
    """
    directory = retention.checkpoint_dir(workdir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            retention.remove_unfinished(directory)
        interruption.current().record_saved(latest_step(workdir))
    except OSError as error:
        raise BadInputError(
            f"{directory} cannot be written ({error_text(error)}); fix that or choose another --workdir."
        ) from error
    return CheckpointManager(directory, {"keep": keep, "keep_every": keep_every, "best": best}, dict(metadata or {}))


def save(checkpoints: CheckpointManager, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
    """Save `state` under its step in the background, unless that step is committed already.

    It waits for the previous save and for the copy to the host. It does not raise: `check_for_errors` and
    `wait_until_finished` report failures. With several processes all of them call it.
    """
    _finish_save(checkpoints)
    step = int(state.step)
    if step in agreement.broadcast_from_process_0(_committed(checkpoints)):
        return
    checkpoints.save_count += 1
    try:
        copied = snapshot.copy_to_host(snapshot.flatten(state))
        finite = {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)}
        checkpoints.pending = step, checkpoints.executor.submit(_write, checkpoints, step, copied, finite)
    except Exception as error:
        _record_failure(checkpoints, step, error)


def check_for_errors(checkpoints: CheckpointManager, say: Callable[[str], None] = print) -> None:
    """Report the saves that have failed since the last call; cheap enough for every step.

    Raises:
        SaveError: three consecutive saves have failed.
    """
    if checkpoints.pending is not None and checkpoints.pending[1].done():
        _finish_save(checkpoints)
    lines = _take_messages(checkpoints)
    if checkpoints.failures >= MAX_FAILURES:
        raise SaveError(f"{checkpoints.failures} consecutive saves have failed: {' '.join(lines)}")
    for line in lines:
        say(f"{line} Training continues; the next save is a retry.")


def wait_until_finished(checkpoints: CheckpointManager) -> None:
    """Wait for the save in progress.

    Raises:
        SaveError: the last save has failed.
    """
    _finish_save(checkpoints)
    if checkpoints.failures:
        raise SaveError(
            " ".join(_take_messages(checkpoints)) or f"The last save in {checkpoints.directory} has failed."
        )


def restore(checkpoints: CheckpointManager, like: TrainState, say: Callable[[str], None] = print) -> TrainState | None:
    """Restore the newest checkpoint that verifies, with the shardings of `like`; None if there are no checkpoints.

    Newer ones that are damaged are moved to `checkpoints-damaged` and reported.

    Args:
        checkpoints: from `open_checkpoints`.
        like: a state of the same run; only its shapes, dtypes and shardings are used.
        say: prints a message for the user.

    Raises:
        BadInputError: the saved state has other shapes, or there are checkpoints and none of them verifies.
    """
    _finish_save(checkpoints)
    damaged: dict[int, str] = {}
    for step in reversed(agreement.broadcast_from_process_0(retention.all_steps(checkpoints.directory))):
        state, damage = snapshot.read(checkpoints.directory / str(step), like)
        if state is not None:
            if jax.process_index() == 0:
                for bad, why in damaged.items():
                    moved = retention.move_damaged(checkpoints.directory / str(bad))
                    say(f"Checkpoint {bad} is damaged ({why}): checkpoint {step} is restored; moved it to {moved}.")
            interruption.current().record_saved(step)
            return state
        damaged[step] = damage
    if damaged:
        each = "; ".join(f"{step}: {why}" for step, why in damaged.items())
        raise BadInputError(
            f"all checkpoints in {checkpoints.directory} are damaged ({each}); repair or remove that folder, "
            "or choose another --workdir."
        )
    return None


def latest_step(workdir: str) -> int | None:
    """The newest committed step in a run's directory; None without one."""
    return max(retention.committed_steps(retention.checkpoint_dir(workdir)), default=None)


def latest_metadata(workdir: str) -> dict[str, Any] | None:
    """The metadata of the newest checkpoint with an intact manifest; None without one."""
    directory = retention.checkpoint_dir(workdir)
    for step in reversed(retention.committed_steps(directory)):
        try:
            return manifest.read(directory / str(step))["facts"]
        except manifest.DamagedError:
            continue
    return None


def all_steps(checkpoints: CheckpointManager) -> list[int]:
    """The committed steps, oldest first."""
    return retention.committed_steps(checkpoints.directory)


def close(checkpoints: CheckpointManager, say: Callable[[str], None] = print) -> None:
    """Wait for the save in progress, report failures and end the saving thread."""
    _finish_save(checkpoints)
    for line in _take_messages(checkpoints):
        say(line)
    checkpoints.executor.shutdown()


def _write(checkpoints: CheckpointManager, step: int, copied: snapshot.Snapshot, metrics: dict[str, float]) -> None:
    """Runs in the saving thread: orbax's files, the manifest, orbax's commit; then old checkpoints are removed."""
    directory = checkpoints.directory

    def seal(temporary, leaves):
        body = {"step": step, "facts": checkpoints.metadata, "metrics": metrics, "leaves": leaves}
        manifest.write(temporary, body)

    attempt = f"{step}.{checkpoints.save_count}"
    store.write(directory, step, copied.arrays, lambda: snapshot.describe(copied), seal, attempt)
    interruption.current().record_saved(step)
    if jax.process_index() == 0:
        manifest.sync_directory(directory)
        try:
            retention.prune(directory, **checkpoints.policy)
        except OSError as error:
            checkpoints.messages.append(f"Old checkpoints in {directory} could not be removed: {error_text(error)}.")


def _finish_save(checkpoints: CheckpointManager) -> None:
    """Wait for the save in progress and note whether it succeeded."""
    if checkpoints.pending is None:
        return
    step, future = checkpoints.pending
    try:
        future.result()
        checkpoints.failures = 0
    except Exception as error:
        _record_failure(checkpoints, step, error)
    checkpoints.pending = None


def _record_failure(checkpoints: CheckpointManager, step: int, error: Exception) -> None:
    checkpoints.failures += 1
    directory = checkpoints.directory
    checkpoints.messages.append(f"Checkpoint {step} could not be saved in {directory}: {error_text(error)}.")
    if jax.process_index() == 0:
        with contextlib.suppress(OSError):
            retention.remove_unfinished(directory, step)


def _take_messages(checkpoints: CheckpointManager) -> list[str]:
    lines, checkpoints.messages = checkpoints.messages, []
    return lines


def _committed(checkpoints: CheckpointManager) -> list[int]:
    with contextlib.suppress(OSError):
        return all_steps(checkpoints)
    return []
