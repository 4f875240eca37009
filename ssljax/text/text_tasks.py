"""GLUE's tasks and how their examples are read from TSV files or tensorflow-datasets."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ssljax.evals import metrics
from ssljax.text import task_files
from ssljax.text.vocabulary import Vocabulary, encode, pack, tokenizer
from ssljax.types import BadInputError

Metric = Callable[[Any, Any], float]


class TextTask(NamedTuple):
    """What a task's files look like and how it is scored; several names stand for the same column or label.

    Attributes:
        name: as GLUE writes it.
        first: names of the first sentence's column.
        second: names of the second sentence's column; empty for single sentences.
        label: names of the label's column.
        labels: the names of each class in order; empty for regression.
        metrics: `(predictions, labels) -> per cent`, by name, the chief one first.
        dev: the splits that are evaluated.
        headless: the columns of GLUE's own file where that has no header line.
        broken_lines: GLUE's own file has lines that a line break inside a sentence has cut in two; such pieces are
            skipped, as is usual.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    label: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    metrics: dict[str, Metric]
    dev: tuple[str, ...] = ("dev",)
    headless: tuple[str, ...] = ()
    broken_lines: bool = False

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """What `finetune` calls it."""
        return "classification" if self.labels else "regression"


ACCURACY: dict[str, Metric] = {"accuracy": metrics.accuracy}
ACCURACY_F1: dict[str, Metric] = ACCURACY | {"f1": metrics.f1}
NO_YES = (("0",), ("1",))
ENTAILED = (("entailment", "0"), ("not_entailment", "1"))  # tfds has the numbers
THREE_WAY = (("entailment", "0"), ("neutral", "1"), ("contradiction", "2"))
PAIR = (("sentence1", "#1 String"), ("sentence2", "#2 String"))
MATCHED = ("dev_matched", "dev_mismatched")

TASKS = {
    task.name: task
    for task in (
        TextTask(
            "CoLA",
            ("sentence",),
            (),
            ("label",),
            NO_YES,
            {"matthews": metrics.matthews, **ACCURACY},
            headless=("source", "label", "star", "sentence"),
        ),
        TextTask("SST-2", ("sentence",), (), ("label",), NO_YES, ACCURACY),
        TextTask("MRPC", *PAIR, ("label", "Quality"), NO_YES, ACCURACY_F1),
        TextTask("STS-B", *PAIR, ("score", "label"), (), {"pearson": metrics.pearson, "spearman": metrics.spearman}),
        TextTask(
            "QQP",
            ("question1",),
            ("question2",),
            ("is_duplicate", "label"),
            NO_YES,
            ACCURACY_F1,
            broken_lines=True,
        ),
        TextTask(
            "MNLI",
            ("sentence1", "premise"),
            ("sentence2", "hypothesis"),
            ("gold_label", "label"),
            THREE_WAY,
            ACCURACY,
            dev=MATCHED,
        ),
        TextTask("QNLI", ("question",), ("sentence",), ("label",), ENTAILED, ACCURACY),
        TextTask("RTE", *PAIR, ("label",), ENTAILED, ACCURACY),
        TextTask("WNLI", *PAIR, ("label",), NO_YES, ACCURACY),
    )
}
TFDS_SPLITS = {"dev": "validation", "dev_matched": "validation_matched", "dev_mismatched": "validation_mismatched"}


class Examples(NamedTuple):
    """A split in the file's order.

    Attributes:
        first: N sentences.
        second: the N sentences they are paired with, or None.
        labels: int32[N] classes, or float32[N] scores.
    """

    first: list[str]
    second: list[str] | None
    labels: np.ndarray


def find_task(name: str) -> TextTask:
    """The task called `name` whatever the case.

    Raises:
        BadInputError: there is none.

    >>> find_task("sst-2").name
    'SST-2'
    """
    for task in TASKS.values():
        if task.name.lower() == name.lower():
            return task
    raise BadInputError(f"task={name}: unknown task; use one of {', '.join(TASKS)}.")


def read_task(task: TextTask, source: str, split: str, data_dir: str | None = None) -> Examples:
    """The examples of one split.

    Args:
        task: one of `TASKS`.
        source: a directory with `SPLIT.tsv` in it or in its folder of the task's name (`tsv:DIRECTORY` says the
            same), or `tfds:NAME` such as tfds:glue/sst2.
        split: "train", "dev", "dev_matched" ...; tfds' names are found from these.
        data_dir: directory of tfds sets.

    Returns:
        The examples.

    Raises:
        BadInputError: no such file or set, not UTF-8, no header with the columns, too few fields in a line, or a
            label outside the task; lines are named.

    Reference: arXiv 1804.07461, table 1; the reading of `run_classifier.py` of google-research/bert, which takes
        quotation marks for text like any other.
    """
    kind, _, where = source.partition(":")
    columns = (task.first, task.second or task.first, task.label)
    if kind == "tfds" and where:
        rows = task_files.tfds_rows(where, TFDS_SPLITS.get(split, split), columns, data_dir)
        return _checked(task, f"{source} ({split})", rows)
    path = _tsv_path(task, where if kind == "tsv" and where else source, split)
    return _checked(task, str(path), task_files.tsv_rows(path, columns, task.headless, task.broken_lines))


def inputs(vocabulary: Vocabulary, examples: Examples, length: int) -> dict[str, np.ndarray]:
    """Examples as what `finetune` reads.

    Args:
        vocabulary: vocabulary of the encoder.
        examples: N of them.
        length: L, in tokens; longer examples are cut, the longer sentence of a pair first.

    Returns:
        `{"tokens": int32[N, L], "segments": int32[N, L], "lengths": int32[N], "label": [N]}`.
    """
    words = tokenizer(vocabulary, specials=False)
    second = None if examples.second is None else encode(words, examples.second)
    return pack(vocabulary, encode(words, examples.first), second, length) | {"label": examples.labels}


def scorer(task: TextTask, labels: Sequence[np.ndarray]) -> Callable[[np.ndarray], dict[str, float]]:
    """The task's metrics as a function of the outputs for all dev splits, one split after another.

    Args:
        task: one of `TASKS`.
        labels: labels of each split of `task.dev`, or of the one split that is evaluated.

    Returns:
        `outputs [N, classes] (or [N, 1]) -> {metric: per cent}`; a second split's metrics are called by its name.
    """

    def score(outputs):
        predictions = outputs.argmax(1) if task.labels else outputs[:, 0]
        found, start = {}, 0
        for place, truth in enumerate(labels):
            part, suffix = predictions[start : start + len(truth)], f" {task.dev[place]}" if place else ""
            found |= {name + suffix: metric(part, truth) for name, metric in task.metrics.items()}
            start += len(truth)
        return found

    return score


def _checked(task: TextTask, name: str, rows: Iterable[task_files.Row]) -> Examples:
    classes = {word: number for number, words in enumerate(task.labels) for word in words}
    first, second, labels = [], [], []
    for where, a, b, label in rows:
        first.append(a)
        second.append(b)
        labels.append(_class(task, classes, label, where) if task.labels else _score(task, label, where))
    if not labels:
        raise BadInputError(f"{name} has no examples; give a file with at least one.")
    return Examples(first, second if task.second else None, np.array(labels, np.int32 if task.labels else np.float32))


def _class(task: TextTask, classes: dict[str, int], label: str, where: str) -> int:
    if label not in classes:
        names = ", ".join(words[0] for words in task.labels)
        raise BadInputError(f"{where}: the label {label!r} is none of {task.name}'s, which are {names}.")
    return classes[label]


def _score(task: TextTask, label: str, where: str) -> float:
    try:
        score = float(label)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 5:
        raise BadInputError(f"{where}: the score {label!r} of {task.name} must be a number from 0 to 5.")
    return score


def _tsv_path(task: TextTask, directory: str, split: str) -> Path:
    folders = (Path(directory), Path(directory) / task.name)
    for folder in folders:
        if (folder / f"{split}.tsv").is_file():
            return folder / f"{split}.tsv"
    others = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.tsv")} - {"train"})
    if split != "train" and others:
        raise BadInputError(
            f"{directory} has no {split}.tsv of {task.name} but {', '.join(others)}; "
            f"evaluate on it with --dev {others[0]}."
        )
    raise BadInputError(f"{directory} has no {split}.tsv of {task.name}; give its directory.")
