"""The two splits of a set: what to learn from, and what to evaluate on, which must not be the same pictures."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xxhash

from ssljax.data.tfds_sets import MissingSplitError
from ssljax.types import BadInputError
from ssljax.vision.sources import Source

ONE_IN = 10  # pictures of a class that are held out where there is no test split
SAMPLED = 16  # pictures by which the bytes of all are estimated
INSTEAD = ("test", "val", "validation", "valid")
MOST_HASHED = 1 << 29  # bytes that are read to compare pictures by content


class Splits(NamedTuple):
    """What to learn from and what to evaluate on.

    Attributes:
        train: the split to learn from.
        test: the split to evaluate on, labels matched by the classes' names; `train` itself where there are no labels.
        labelled: whether there are labels to evaluate with.
        notes: sentences for the user.
    """

    train: Source
    test: Source
    labelled: bool
    notes: list[str]


def open_splits(open_split: Callable[[str], Source], train: str, test: str) -> Splits:
    """Open both splits; where there is no other one to evaluate on, part of the training split is held out.

    `val`, `validation` and `valid` stand in for a missing test split. If there is none of them, or both splits are the
    same pictures, as with a folder that has classes but no splits, every tenth picture of each class is held out.
    Without labels, or with labels that can be learned from nowhere else, all of the training split is learned from.

    Args:
        open_split: opens a split by its name.
        train: name of the split to learn from.
        test: name of the split to evaluate on.

    Raises:
        BadInputError: from `open_split`, or a test class that the training split has not.
    """
    seen, notes = open_split(train), []
    if why := _unlabelled(seen):
        note = f"{seen.name}: {why}; all {len(seen)} pictures are trained on, and evaluated without labels."
        return Splits(seen, seen, False, [*seen.notes, note])
    try:
        asked = open_split(test)
    except MissingSplitError as missing:
        others = [name for name in INSTEAD if name in missing.splits and name != train]
        asked = open_split(others[0]) if others else None
        if asked is not None:
            notes = [f"{seen.name}: there is no split {test!r}; {others[0]!r} is evaluated on."]
    if asked is None or asked.class_names is None or asked.fingerprint == seen.fingerprint:
        why = f"there is no split {test!r}" if asked is None else "both splits are the same pictures"
        why = why if asked is None or asked.class_names else f"{asked.name} has no labels"
        seen, asked, note = _hold_out(seen, why)
        return Splits(seen, asked, True, [*seen.notes, note])
    notes = [*dict.fromkeys([*seen.notes, *asked.notes]), *notes]
    asked = asked.with_classes_of(seen)
    _check_channels(seen, asked)
    if shared := in_both(seen, asked):
        notes.append(f"{shared} of the {len(asked)} pictures of {asked.name} are in {seen.name} too, byte for byte.")
    return Splits(seen, asked, True, notes)


def _check_channels(seen: Source, asked: Source) -> None:
    """Pixels are of as many channels in both splits; what is decoded from files is in any case."""
    learned, evaluated = seen.arrays, asked.arrays
    if learned is not None and evaluated is not None:
        one, other = learned["image"].shape[-1], evaluated["image"].shape[-1]
        if one != other:
            raise BadInputError(f"{seen.name} has {one} channels and {asked.name} {other}; give pictures of one kind.")


def _unlabelled(source: Source) -> str:
    """Why a split has no labels to evaluate with; "" if it has."""
    if source.class_names is None:
        return "there are no labels"
    if len(source.class_names) < 2:
        return f"there is only one class, {', '.join(source.class_names)!r}"
    if source.labels is not None and np.bincount(source.labels).max() < 2:
        return f"each of the {len(source)} pictures has a class of its own"
    return ""


def _hold_out(source: Source, why: str) -> tuple[Source, Source, str]:
    held = held_out(len(source), source.labels)
    kept, asked = np.flatnonzero(~held), np.flatnonzero(held)
    note = f"{source.name}: {why}; every tenth picture of each class, {len(asked)} of {len(source)}, is held out."
    return source.part(kept, f"{source.name}, kept"), source.part(asked, f"{source.name}, held out"), note


def held_out(count: int, labels: np.ndarray | None) -> np.ndarray:
    """Which of `count` pictures are held out: bool[count], every tenth of each class, one at least of two.

    >>> held_out(4, None).tolist(), held_out(5, np.array([0, 1, 0, 1, 2])).tolist()
    ([False, True, False, False], [False, False, True, True, False])
    """
    held = np.zeros(count, bool)
    labels = np.zeros(count, int) if labels is None else labels
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        # of fewer than ten the second: a class of one picture is learned from
        held[own[ONE_IN - 1 :: ONE_IN] if len(own) >= ONE_IN else own[1:2]] = True
    return held


def in_both(one: Source, other: Source) -> int:
    """How many pictures of `other` are in `one` too, by their bytes; 0 for sets too large to be read for it."""
    sizes = [len(picture) for picture in itertools.islice(one.encoded(), SAMPLED)]
    if sum(sizes) / max(len(sizes), 1) * (len(one) + len(other)) > MOST_HASHED:
        return 0
    known = set(map(xxhash.xxh3_128_digest, one.encoded()))
    return sum(xxhash.xxh3_128_digest(picture) in known for picture in other.encoded())
