"""A task of one's own from a table: labels found in the data, rows held out, numbers brought to one scale."""

from typing import NamedTuple

import numpy as np

from ssljax.evals import metrics
from ssljax.text.tables import Table
from ssljax.text.text_tasks import Examples, Metric, TextTask
from ssljax.types import BadInputError

HELD_OUT = 10  # every so manyth row of a class is held out where no rows to evaluate on are given
MOST_CLASSES = 1000
CLASSES: dict[str, Metric] = {"accuracy": metrics.accuracy, "macro f1": metrics.macro_f1}
NUMBERS: dict[str, Metric] = {"pearson": metrics.pearson, "spearman": metrics.spearman}


class Scale(NamedTuple):
    """Mean and standard deviation of the training rows' numbers, which are learned as (number - mean) / deviation."""

    mean: float
    deviation: float


UNSCALED = Scale(0.0, 1.0)


def own_task(train: Table, text: tuple[str, ...], label: str, regression: bool) -> TextTask:
    """The task that a table states.

    Args:
        train: the rows to learn from.
        text: one or two columns of text.
        label: column of the labels.
        regression: whether they are numbers to predict.

    Returns:
        A task whose classes are the labels that occur, whole numbers in their order, others in the alphabet's.

    Raises:
        BadInputError: the columns are not there, or there is one class, or too many.
    """
    if len(text) not in (1, 2):
        raise BadInputError(f"text={' '.join(text)}: give one column of text, or two for pairs.")
    for name in text:
        train.column(name, "text")
    found = sorted(set(train.column(label, "label")), key=_in_order)
    second = text[1:]
    if regression:
        return TextTask(label, text[:1], second, (label,), (), NUMBERS, dev=("test",))
    if len(found) < 2:
        raise BadInputError(f"label={label}: all rows of {train.path} have the label {found[0]!r}; give two or more.")
    if len(found) > MOST_CLASSES or 2 * len(found) > len(train.lines):
        raise BadInputError(
            f"label={label}: {train.path} has {len(found)} different labels in {len(train.lines)} rows; give another "
            "column or, for numbers, --regression."
        )
    return TextTask(label, text[:1], second, (label,), tuple((name,) for name in found), CLASSES, dev=("test",))


def _in_order(label: str) -> tuple[int, int, str]:
    digits = label.removeprefix("-")
    return (0, int(label), "") if digits.isdecimal() and digits.isascii() else (1, 0, label)


def examples(table: Table, task: TextTask) -> Examples:
    """The rows of a table as a task's.

    Raises:
        BadInputError: a column is missing, a label was not there in training, or a number is none.
    """
    first = table.column(task.first[0], "text")
    second = table.column(task.second[0], "text") if task.second else None
    classes = {names[0]: number for number, names in enumerate(task.labels)}
    labels = []
    for line, value in zip(table.lines, table.column(task.label[0], "label"), strict=True):
        if task.labels and value not in classes:
            raise BadInputError(f"{table.path}, line {line}: the label {value!r} does not occur in training; fix it.")
        labels.append(classes[value] if task.labels else _number(value, f"{table.path}, line {line}"))
    return Examples(first, second, np.array(labels, np.int32 if task.labels else np.float32))


def _number(value: str, where: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not np.isfinite(found):
        raise BadInputError(f"{where}: {value!r} is not a number, which --regression needs; fix it.")
    return found


def hold_out(whole: Examples, task: TextTask, seed: int) -> tuple[Examples, Examples]:
    """Every tenth row of each class, in an order drawn by the seed, to evaluate on; and the others to learn from.

    Raises:
        BadInputError: there are too few rows to hold one out.
    """
    order = np.random.default_rng(seed).permutation(len(whole.first))
    groups = whole.labels[order] if task.labels else np.zeros(len(order), np.int32)
    held = np.zeros(len(order), bool)
    for group in np.unique(groups):
        held[order[groups == group][HELD_OUT - 1 :: HELD_OUT]] = True
    if not held.any():
        raise BadInputError(f"{len(order)} rows are too few to hold some out; give rows to evaluate on with --test.")
    return _chosen(whole, np.flatnonzero(~held)), _chosen(whole, np.flatnonzero(held))


def _chosen(whole: Examples, rows: np.ndarray) -> Examples:
    second = None if whole.second is None else [whole.second[row] for row in rows]
    return Examples([whole.first[row] for row in rows], second, whole.labels[rows])


def scale_of(labels: np.ndarray) -> Scale:
    """The scale of numbers to predict."""
    return Scale(float(np.mean(labels, dtype=np.float64)), float(np.std(labels, dtype=np.float64)) or 1.0)
