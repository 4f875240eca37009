"""Checkpoints that are checked: saved in the background with a manifest, verified when they are restored.

A save copies the state to the host and returns; a thread digests the copy while orbax (in `store`) writes it to a
temporary directory, the manifest comes last, and a rename commits the step. What is restored is the newest step of
which every leaf, as it arrived on the devices, has the digest that was saved; a damaged one is set aside.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import jax
from etils import epath

from ssljax.train.hosts import agreement
from ssljax.train.saving import manifest, retention, snapshot, store
from ssljax.train.state import TrainState
from ssljax.types import BadInputError

MOST_FAILURES = 3  # saves in a row; then the run ends


class SaveError(RuntimeError):
    """A checkpoint that had to be saved could not be; the message is one sentence."""


@dataclasses.dataclass
class Checkpoints:
    """A run's checkpoints; the functions of this module read and write the fields.

    Attributes:
        directory: `workdir/checkpoints`.
        policy: arguments of `retention.keepers`.
        facts: what every manifest says of the run.
        pool: its one thread saves.
        saving: (step, the save that is under way).
        started: saves so far, the same on every process.
        failures: failed saves in a row.
        unsaid: what the user is still to be told.
    """

    directory: epath.Path
    policy: dict[str, Any]
    facts: dict[str, Any]
    pool: ThreadPoolExecutor = dataclasses.field(default_factory=lambda: ThreadPoolExecutor(1, "save"))
    saving: tuple[int, Future] | None = None
    started: int = 0
    failures: int = 0
    unsaid: list[str] = dataclasses.field(default_factory=list)


def open_checkpoints(
    workdir: str,
    *,
    keep: int = 2,
    keep_every: int | None = None,
    best: tuple[str, Literal["max", "min"]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Checkpoints:
    """The run's checkpoints in `workdir/checkpoints`; what killed saves have left there is removed.

    The caller sees to it that no other run is saving there.

    Args:
        workdir: the run's directory, local or `gs://`.
        keep: how many of the newest stay.
        keep_every: the steps that are multiples of it stay as well.
        best: a metric's name and "max" or "min": the best step by what `save` was given stays as well.
        facts: what is to be known of the run, as JSON; each manifest holds it.

    Raises:
        BadInputError: the directory cannot be written.
    """
    directory = retention.folder(workdir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            retention.clear_leftovers(directory)
    except OSError as error:
        raise BadInputError(
            f"{directory} cannot be written ({manifest.reason(error)}); mend that or choose another --workdir."
        ) from error
    return Checkpoints(directory, {"keep": keep, "keep_every": keep_every, "best": best}, dict(facts or {}))


def save(checkpoints: Checkpoints, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
    """Save `state` under its step, in the background; a step that is committed already is left as it is.

    It waits for the save before, and for the copy to the host. Nothing is raised: `check` and `wait` tell of failures.
    With several processes all of them call it.
    """
    _settle(checkpoints)
    step = int(state.step)
    if step in agreement.from_first(_committed(checkpoints)):
        return
    checkpoints.started += 1
    try:
        held = snapshot.hold(snapshot.flatten(state))
        finite = {name: float(value) for name, value in (metrics or {}).items() if math.isfinite(value)}
        checkpoints.saving = step, checkpoints.pool.submit(_write, checkpoints, step, held, finite)
    except Exception as error:
        _failed(checkpoints, step, error)


def check(checkpoints: Checkpoints, say: Callable[[str], None] = print) -> None:
    """Tell of saves that have failed since the last call; cheap, for every step.

    Raises:
        SaveError: three have failed in a row.
    """
    if checkpoints.saving is not None and checkpoints.saving[1].done():
        _settle(checkpoints)
    lines = _told(checkpoints)
    if checkpoints.failures >= MOST_FAILURES:
        raise SaveError(f"{checkpoints.failures} saves in a row have failed: {' '.join(lines)}")
    for line in lines:
        say(f"{line} Training goes on; the next save tries again.")


def wait(checkpoints: Checkpoints) -> None:
    """Until no save is under way.

    Raises:
        SaveError: the last save has failed.
    """
    _settle(checkpoints)
    if checkpoints.failures:
        raise SaveError(" ".join(_told(checkpoints)) or f"The last save in {checkpoints.directory} has failed.")


def restore(checkpoints: Checkpoints, like: TrainState, say: Callable[[str], None] = print) -> TrainState | None:
    """The newest saved state that verifies, laid out as `like` is, or None when nothing has been saved.

    Newer steps that are damaged are moved to `checkpoints-damaged`, and `say` is told of each.

    Args:
        checkpoints: from `open_checkpoints`.
        like: a state of the same run; only its shapes, dtypes and shardings are used.
        say: tells the user.

    Raises:
        BadInputError: the saved state is of another shape, or there are steps and none of them verifies.
    """
    _settle(checkpoints)
    damaged: dict[int, str] = {}
    for step in reversed(agreement.from_first(retention.numbered(checkpoints.directory))):
        state, trouble = snapshot.read(checkpoints.directory / str(step), like)
        if state is not None:
            if jax.process_index() == 0:
                for bad, why in damaged.items():
                    place = retention.set_aside(checkpoints.directory / str(bad))
                    say(f"Checkpoint {bad} is damaged ({why}): checkpoint {step} is taken instead, {place} keeps it.")
            return state
        damaged[step] = trouble
    if damaged:
        each = "; ".join(f"{step}: {why}" for step, why in damaged.items())
        raise BadInputError(
            f"none of the checkpoints in {checkpoints.directory} is whole ({each}); mend or remove that folder, "
            "or choose another --workdir."
        )
    return None


def newest_facts(workdir: str) -> dict[str, Any] | None:
    """The `facts` of the newest checkpoint with a whole manifest; None without one."""
    directory = retention.folder(workdir)
    for step in reversed(retention.committed(directory)):
        try:
            return manifest.read(directory / str(step))["facts"]
        except manifest.DamageError:
            continue
    return None


def steps(checkpoints: Checkpoints) -> list[int]:
    """The committed steps, oldest first."""
    return retention.committed(checkpoints.directory)


def close(checkpoints: Checkpoints, say: Callable[[str], None] = print) -> None:
    """End the saving thread, after what is under way."""
    _settle(checkpoints)
    for line in _told(checkpoints):
        say(line)
    checkpoints.pool.shutdown()


def _write(checkpoints: Checkpoints, step: int, held: snapshot.Held, metrics: dict[str, float]) -> None:
    """Runs in the saving thread: orbax's files, the manifest, orbax's commit; then what need not stay goes."""
    directory = checkpoints.directory

    def seal(temporary, leaves):
        body = {"step": step, "facts": checkpoints.facts, "metrics": metrics, "leaves": leaves}
        manifest.write(temporary, body)

    attempt = f"{step}.{checkpoints.started}"
    store.write(directory, step, held.arrays, lambda: snapshot.described(held), seal, attempt)
    if jax.process_index() == 0:
        manifest.sync_directory(directory)
        try:
            retention.prune(directory, **checkpoints.policy)
        except OSError as error:
            checkpoints.unsaid.append(f"Old checkpoints in {directory} could not be removed: {manifest.reason(error)}.")


def _settle(checkpoints: Checkpoints) -> None:
    """Wait for the save that is under way and note how it went."""
    if checkpoints.saving is None:
        return
    step, future = checkpoints.saving
    try:
        future.result()
        checkpoints.failures = 0
    except Exception as error:
        _failed(checkpoints, step, error)
    checkpoints.saving = None


def _failed(checkpoints: Checkpoints, step: int, error: Exception) -> None:
    checkpoints.failures += 1
    directory = checkpoints.directory
    checkpoints.unsaid.append(f"Checkpoint {step} could not be saved in {directory}: {manifest.reason(error)}.")
    if jax.process_index() == 0:
        with contextlib.suppress(OSError):
            retention.clear_leftovers(directory, step)


def _told(checkpoints: Checkpoints) -> list[str]:
    lines, checkpoints.unsaid = checkpoints.unsaid, []
    return lines


def _committed(checkpoints: Checkpoints) -> list[int]:
    with contextlib.suppress(OSError):
        return steps(checkpoints)
    return []
