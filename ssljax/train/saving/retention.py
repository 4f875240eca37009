"""Which saved steps stay, and how one leaves: removed because newer ones do, or set aside because it is damaged."""

import contextlib
import math
from collections.abc import Mapping

from etils import epath

from ssljax.train import buckets
from ssljax.train.saving import manifest, store

_GOING = ".going"


def folder(workdir: str) -> epath.Path:
    """Where a run's checkpoints are."""
    path = epath.Path(workdir)
    return (path.resolve() if buckets.is_local(path) else path) / "checkpoints"


def keepers(
    saved: Mapping[int, Mapping[str, float]],
    *,
    keep: int,
    keep_every: int | None = None,
    best: tuple[str, str] | None = None,
) -> set[int]:
    """The steps that stay: the newest `keep`, the multiples of `keep_every` and the best by a metric.

    Args:
        saved: step -> its metrics.
        keep: at least 1.
        keep_every: None: no others.
        best: the metric's name and "max" or "min"; the newest of equals. Steps without it, or where it is not
            finite, are no candidates.

    >>> sorted(keepers({10: {"knn": 40.0}, 20: {"knn": 39.0}, 30: {}, 40: {}}, keep=2, best=("knn", "max")))
    [10, 30, 40]
    """
    stay = set(sorted(saved)[-max(keep, 1) :])
    if keep_every:
        stay |= {step for step in saved if step % keep_every == 0}
    if best is not None:
        name, direction = best
        sign = -1 if direction == "min" else 1
        marks = {step: sign * metrics[name] for step, metrics in saved.items() if _counts(metrics.get(name))}
        if marks:
            stay.add(max(marks, key=lambda step: (marks[step], step)))
    return stay


def _counts(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def numbered(directory: epath.Path) -> list[int]:
    """The steps that have a directory, committed or not, oldest first."""
    return sorted(int(path.name) for path in buckets.entries(directory) if path.name.isdecimal())


def committed(directory: epath.Path) -> list[int]:
    """The steps that have a manifest, oldest first."""
    return [step for step in numbered(directory) if (directory / str(step) / manifest.NAME).exists()]


def prune(directory: epath.Path, **policy) -> None:
    """Remove the committed steps that do not stay; one whose manifest cannot be read is left alone."""
    saved = {}
    for step in committed(directory):
        with contextlib.suppress(manifest.DamageError):
            saved[step] = manifest.read(directory / str(step))["metrics"]
    for step in saved.keys() - keepers(saved, **policy):
        remove(directory / str(step))


def remove(step: epath.Path) -> None:
    """Take a step away such that what a kill leaves of it is not taken for a damaged one."""
    if buckets.is_local(step):
        going = step.parent / (step.name + _GOING)
        if going.exists():
            going.rmtree()
        step.rename(going)
        going.rmtree()
    else:
        for name in ("commit_success.txt", manifest.NAME):
            (step / name).unlink(missing_ok=True)
        step.rmtree()


def set_aside(step: epath.Path) -> epath.Path:
    """Move a damaged step to `checkpoints-damaged/STEP`, or `STEP.1` and so on; returns the place."""
    folder = step.parent.parent / f"{step.parent.name}-damaged"
    folder.mkdir(parents=True, exist_ok=True)
    place, count = folder / step.name, 0
    while place.exists():
        count += 1
        place = folder / f"{step.name}.{count}"
    if buckets.is_local(step):
        step.rename(place)
    else:
        buckets.copy_tree(step, place)
        remove(step)
    return place


def clear_leftovers(directory: epath.Path, step: int | None = None) -> None:
    """Remove what saves and removals that did not come to their end have left, of one step or of all."""
    for path in buckets.entries(directory):
        name, _, rest = path.name.partition(".")
        if not name.isdecimal() or step not in (None, int(name)):
            continue
        if f".{rest}" == _GOING or store.is_unfinished(path) or _cut_short(path):
            path.rmtree()


def _cut_short(path: epath.Path) -> bool:
    # storage without renames: a step is written in its place, and these two files come last
    if buckets.is_local(path):
        return False
    return not any((path / name).exists() for name in (manifest.NAME, "commit_success.txt"))
