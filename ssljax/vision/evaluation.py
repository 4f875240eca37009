"""A trained encoder on a labelled set: kNN and linear probes beside raw pixels and the untrained encoder."""

import json
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssljax.data import loader
from ssljax.evals import fractions, knn, logistic
from ssljax.run import results as records
from ssljax.train.report import page
from ssljax.types import BadInputError
from ssljax.vision import encoder_file
from ssljax.vision.controls import raw_features
from ssljax.vision.embedding import readable
from ssljax.vision.encoder_file import PictureEncoder
from ssljax.vision.page import neighbours_of
from ssljax.vision.pictures import resize_center
from ssljax.vision.scores import evenly
from ssljax.vision.sources import Source
from ssljax.vision.splits import Splits

PER_CLASS = (1, 5, 10)
NEIGHBOURS, TEMPERATURE = 20, 0.07
NOTE = (
    f"Top-1 accuracy in per cent: kNN ({NEIGHBOURS} neighbours, temperature {TEMPERATURE}), logistic regression on all "
    "labels and on 1, 5 and 10 labels a class."
)

Row = dict[str, Any]  # column -> figure, or (mean, standard deviation over draws)


class Evaluated(NamedTuple):
    """What an evaluation has found.

    Attributes:
        table: `{"pixels", "untrained", "encoder"}` -> row.
        features: of the test pictures by the encoder, float32[M, D].
        labels: of the test pictures, int[M].
        indices: their positions in the test split.
        counts: numbers of training and test pictures and of classes.
    """

    table: dict[str, Row]
    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    counts: dict[str, int]


class _Features(NamedTuple):
    rows: dict[str, np.ndarray]
    labels: np.ndarray
    indices: np.ndarray


def evaluate(
    encoder: PictureEncoder, splits: Splits, *, draws: int = 5, seed: int = 0, say: Callable[[str], Any] = print
) -> Evaluated:
    """KNN, logistic regression on all labels and on 1, 5 and 10 a class, for pixels, the untrained and the encoder.

    Args:
        encoder: the frozen encoder.
        splits: to learn from and to evaluate on.
        draws: draws of the few labels, at least 2.
        seed: of the draws and of the untrained encoder.
        say: is given a line for each step.

    Raises:
        BadInputError: there are no labels, or pictures that do not fit the encoder.
    """
    if not splits.labelled:
        raise BadInputError(f"{splits.train.name} has no labels to evaluate with; give a folder for each class.")
    train, test = (_features(encoder, source, seed, say) for source in (splits.train, splits.test))
    classes, positions = np.unique(train.labels, return_inverse=True)
    known = np.isin(test.labels, classes)
    if not known.all():
        say(f"{np.sum(~known)} test pictures are of classes without a training picture, and count as wrong.")
    counts = {"train": len(train.labels), "test": len(test.labels), "classes": len(classes)}
    say(f"{counts['train']} training and {counts['test']} test pictures of {counts['classes']} classes.")
    asked = np.where(known, np.searchsorted(classes, np.minimum(test.labels, classes[-1])), len(classes))
    table = {}
    for name, seen in train.rows.items():
        began = time.monotonic()
        table[name] = _row(seen, positions, test.rows[name], asked, draws, seed)
        say(f"{name}: evaluated in {time.monotonic() - began:.0f} s")
    return Evaluated(table, test.rows["encoder"], test.labels, test.indices, counts)


def _features(encoder: PictureEncoder, source: Source, seed: int, say: Callable[[str], Any]) -> _Features:
    """Each row's features of all pictures of a split; a limited number of pictures is in memory at a time."""
    untrained, found, labels, indices = encoder.untrained(seed), [], [], []
    for piece in encoder_file.prepared(encoder, source):
        assert piece.labels is not None
        found.append(
            {
                "pixels": raw_features(piece.images),
                "untrained": encoder_file.vectors(untrained, piece.images),
                "encoder": encoder_file.vectors(encoder, piece.images),
            }
        )
        labels.append(piece.labels)
        indices.append(piece.indices)
    for name, reason in source.bad.items():
        say(f"{readable(name)}: {reason}; it is left out.")
    rows = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return _Features(rows, np.concatenate(labels), np.concatenate(indices))


def _row(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, asked: np.ndarray, draws: int, seed: int
) -> dict[str, Any]:
    classes, smallest = max(int(labels.max()), int(asked.max())) + 1, fractions.smallest_class(labels)
    few = {f"linear_{n}_per_class": n for n in PER_CLASS if n <= smallest}
    probed = (train, labels, test, asked)
    voting = {"k": min(NEIGHBOURS, len(train)), "temperature": TEMPERATURE}
    return {
        "knn": knn.knn_accuracy(*probed, num_classes=classes, **voting),
        **{
            column: fractions.few_label_accuracy(*probed, num_classes=classes, per_class=n, draws=draws, seed=seed)
            for column, n in few.items()
        },
        "linear": logistic.quick_probe(*probed, num_classes=classes),
    }


def write(directory: Any, encoder: PictureEncoder, splits: Splits, found: Evaluated) -> None:
    """Write `evaluation.json` and `evaluation.html` into a new directory.

    Args:
        directory: path, local or of a bucket.
        encoder: what was evaluated.
        splits: on what.
        found: with what result.
    """
    directory.mkdir(parents=True)
    environment = records.environment()
    about = {"encoder": encoder.name, "train": splits.train.name, "test": splits.test.name, **found.counts}
    held = {"results": found.table, "about": about, "note": NOTE, "environment": environment}
    records.write(directory / "evaluation.json", json.dumps(held, indent=2) + "\n")
    indices = found.indices[evenly(len(found.indices))]
    rows = np.searchsorted(found.indices, indices)
    transform = resize_center(encoder.preprocessing.size, encoder.preprocessing.resize)
    images = loader.load_all(splits.test, transform=transform, indices=indices.tolist(), fields=("image",))["image"]
    report = page.Report(
        title=f"Evaluation on {splits.test.name}",
        description="\n\n".join(f"{name}: {value}" for name, value in about.items()),
        results=found.table,
        results_note=NOTE,
        neighbours=neighbours_of(images, found.features[rows], found.labels[rows]),
        embeddings=(found.features[rows], found.labels[rows]),
        class_names=splits.train.class_names,
        environment=environment,
    )
    page.write_report(directory / "evaluation.html", report)


def slug(spec: str) -> str:
    """A set as part of a file's name.

    >>> slug("folder:~/my pictures/"), slug("embedded:fashion_mnist")
    ('folder_my_pictures', 'embedded_fashion_mnist')
    """
    kind, _, where = spec.partition(":")
    last = where.rstrip("/").rpartition("/")[2].removesuffix(".npz")
    return re.sub(r"[^\w.-]+", "_", f"{kind}_{last}").strip("_")
