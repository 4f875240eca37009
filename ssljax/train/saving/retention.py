"""Which checkpoints are kept, and how the others are removed or, if they are damaged, moved aside."""

import contextlib
import math
from collections.abc import Mapping

from etils import epath

from ssljax.train import buckets
from ssljax.train.saving import manifest, store

_BEING_REMOVED = ".going"  # suffix of its directory


def checkpoint_dir(workdir: str) -> epath.Path:
    """The directory of a run's checkpoints."""
    path = epath.Path(workdir)
    return (path.resolve() if buckets.is_local(path) else path) / "checkpoints"


def steps_to_keep(
    saved: Mapping[int, Mapping[str, float]],
    *,
    keep: int,
    keep_every: int | None = None,
    best: tuple[str, str] | None = None,
) -> set[int]:
    """The steps to keep: the newest `keep`, the multiples of `keep_every` and the best by a metric.

    Args:
        saved: step -> its metrics.
        keep: number of most recent steps, at least 1.
        keep_every: keep the multiples of it as well; None: no others.
        best: keep the best step by this metric as well: its name and "max" or "min". Of equals the newest; steps
            where it is missing or not finite do not count.

    >>> sorted(steps_to_keep({10: {"knn": 40.0}, 20: {"knn": 39.0}, 30: {}, 40: {}}, keep=2, best=("knn", "max")))
    [10, 30, 40]
    """
    kept = set(sorted(saved)[-max(keep, 1) :])
    if keep_every:
        kept |= {step for step in saved if step % keep_every == 0}
    if best is not None:
        name, direction = best
        sign = -1 if direction == "min" else 1
        scores = {step: sign * metrics[name] for step, metrics in saved.items() if _is_finite(metrics.get(name))}
        if scores:
            kept.add(max(scores, key=lambda step: (scores[step], step)))
    return kept


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def all_steps(directory: epath.Path) -> list[int]:
    """The steps with a directory, committed or not, oldest first."""
    return sorted(int(path.name) for path in buckets.entries(directory) if path.name.isdecimal())


def committed_steps(directory: epath.Path) -> list[int]:
    """The steps with a manifest, oldest first."""
    return [step for step in all_steps(directory) if (directory / str(step) / manifest.NAME).exists()]


def prune(directory: epath.Path, **policy) -> None:
    """Remove the committed steps that are not to be kept; those with an unreadable manifest are not touched."""
    saved = {}
    for step in committed_steps(directory):
        with contextlib.suppress(manifest.DamagedError):
            saved[step] = manifest.read(directory / str(step))["metrics"]
    for step in saved.keys() - steps_to_keep(saved, **policy):
        remove(directory / str(step))


def remove(step: epath.Path) -> None:
    """Remove a step such that an interrupted removal does not look like a damaged checkpoint."""
    if buckets.is_local(step):
        renamed = step.parent / (step.name + _BEING_REMOVED)
        if renamed.exists():
            renamed.rmtree()
        step.rename(renamed)
        renamed.rmtree()
    else:
        for name in ("commit_success.txt", manifest.NAME):
            (step / name).unlink(missing_ok=True)
        step.rmtree()


def move_damaged(step: epath.Path) -> epath.Path:
    """Move a damaged step to `checkpoints-damaged/STEP`, or `STEP.1` and so on; returns the new path."""
    folder = step.parent.parent / f"{step.parent.name}-damaged"
    folder.mkdir(parents=True, exist_ok=True)
    target, count = folder / step.name, 0
    while target.exists():
        count += 1
        target = folder / f"{step.name}.{count}"
    if buckets.is_local(step):
        step.rename(target)
    else:
        buckets.copy_tree(step, target)
        remove(step)
    return target


def remove_unfinished(directory: epath.Path, step: int | None = None) -> None:
    """Remove the files of interrupted saves and removals, of one step or of all."""
    for path in buckets.entries(directory):
        name, _, rest = path.name.partition(".")
        if not name.isdecimal() or step not in (None, int(name)):
            continue
        if f".{rest}" == _BEING_REMOVED or store.is_unfinished(path) or _is_uncommitted(path):
            path.rmtree()


def _is_uncommitted(path: epath.Path) -> bool:
    # without renames a step is written to its final path, and these two files come last
    if buckets.is_local(path):
        return False
    return not any((path / name).exists() for name in (manifest.NAME, "commit_success.txt"))
