"""Labels as positions among the names of classes, whatever numbers a set has for them."""

from typing import NamedTuple

import numpy as np

from ssljax.types import BadInputError

NO_LABEL = -1  # what sets of tensorflow-datasets, among others, have in splits without labels
UNREADABLE = np.iinfo(np.int64).min  # of a damaged record


class Labelled(NamedTuple):
    """A split's labels.

    Attributes:
        labels: int[N], positions in `class_names`; None: unlabelled.
        class_names: a name for each class; None: unlabelled.
        positions: the number that the set has for a class -> its position.
        notes: sentences for the user.
    """

    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    positions: dict[int, int] | None = None
    notes: tuple[str, ...] = ()


def classes_of(name: str, numbers: np.ndarray | None, class_names: tuple[str, ...] | None) -> Labelled:
    """The classes of a split: those that are named, else the numbers that occur, in their order.

    Args:
        name: what messages call the split.
        numbers: int[N], the labels as they are stored; None: there are none. All -1 stands for none, too.
        class_names: the names of 0, 1, ..., where the set has them.

    Raises:
        BadInputError: some labels are -1 and others are not, or one is lower.

    >>> classes_of("set", np.array([7, 300_005, 7]), None)[:2]
    (array([0, 1, 0], dtype=int32), ('7', '300005'))
    """
    if numbers is None:
        return Labelled()
    known = numbers[numbers != UNREADABLE]
    missing = int((known == NO_LABEL).sum())
    if missing and missing == len(known):
        return Labelled(notes=(f"{name}: every label is -1, which stands for none; the split is taken as unlabelled.",))
    if missing:
        raise BadInputError(
            f"{name}: {missing} of {len(known)} labels are -1, which stands for none; give each picture one, or all -1."
        )
    if len(known) and known.min() < 0:
        raise BadInputError(f"{name}: labels lie in {known.min()} to {known.max()}; give numbers of 0 and above.")
    if class_names is not None:
        return Labelled(numbers, class_names, {position: position for position in range(len(class_names))})
    occurring = np.unique(known)
    positions = {number: position for position, number in enumerate(occurring.tolist())}
    return Labelled(np.searchsorted(occurring, numbers).astype(np.int32), tuple(map(str, positions)), positions)
