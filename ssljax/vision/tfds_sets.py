"""Sets of tensorflow-datasets, read as array_record without TensorFlow."""

from typing import Any, NamedTuple

import numpy as np

from ssljax.data.tfds_sets import open_records, prepared_builder, read_integers, record_bytes
from ssljax.types import BadInputError
from ssljax.vision.classes import UNREADABLE, Labelled, classes_of
from ssljax.vision.reader import Reader

MOST_LABELS = 200_000  # records whose labels are read when a set is opened
MOST_BYTES = 1 << 30  # likewise, of sets that name their classes
SAMPLED = 64  # of larger ones


def tfds_splits(name: str, data_dir: str | None) -> list[str]:
    """The splits of a prepared set."""
    import tensorflow_datasets as tfds

    return list(prepared_builder(tfds, name, data_dir).info.splits)


def open_tfds(name: str, split: str, data_dir: str | None, numbers: np.ndarray | None = None) -> Reader:
    """One split of a prepared set that has a feature `image`, and perhaps a `label`.

    Args:
        name: name of the set.
        split: a split or a slice of one.
        data_dir: directory of the sets; None: tfds' own default.
        numbers: `Reader.numbers` of the same split opened before.
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(tfds, name, data_dir)
    features: Any = dict(builder.info.features.items())
    _check_image(tfds, name, features)
    records = open_records(builder, name, split, data_dir, {"image": tfds.decode.SkipDecoding()})
    called = f"tfds:{name} ({split})"
    labels = _labels(tfds, called, records, features.get("label"), numbers)
    positions = labels.found.positions or {}

    def read(index):
        try:
            record = records[index]
            picture, number = record["image"], int(record["label"]) if positions else None
        except Exception as error:  # array_record and tfds raise several kinds of exceptions on damaged bytes
            raise BadInputError(f"a damaged record ({' '.join(str(error).split())[:200]})") from error
        if not isinstance(picture, bytes):
            raise BadInputError("a damaged record (it has no picture)")
        if number is None:
            return picture, None
        if number not in positions:
            raise BadInputError(f"its label is {number}, which is no class of the others")
        return picture, positions[number]

    return Reader(
        name=called,
        length=len(records),
        read=read,
        picture_name=lambda i: f"{called}: picture {i}",
        class_names=labels.found.class_names,
        identity=f"{builder.info.full_name} {split}".encode(),
        channels=1 if features["image"].shape[-1] == 1 else 3,
        notes=labels.found.notes,
        labels=labels.found.labels if labels.complete else None,
        numbers=labels.numbers,
    )


def _check_image(tfds: Any, name: str, features: dict[str, Any]) -> None:
    image = features.get("image")
    if isinstance(image, tfds.features.Image):
        return
    if image is None:
        raise BadInputError(f"tfds:{name} has no feature 'image' but {', '.join(features)}; use another set.")
    kind = "a sequence of images" if isinstance(image, tfds.features.Sequence) else f"a {type(image).__name__}"
    raise BadInputError(f"tfds:{name}: its feature 'image' is {kind}, not one image a record; use another set.")


class _Labels(NamedTuple):
    """What is known of a split's labels when it is opened; `complete`: of each record."""

    found: Labelled
    numbers: np.ndarray | None = None
    complete: bool = False


def _labels(tfds: Any, name: str, records: Any, feature: Any, numbers: np.ndarray | None) -> _Labels:
    """The labels are read where that is cheap: -1 in all stands for none, and not all sets name their classes."""
    integer = isinstance(feature, tfds.features.Tensor) and feature.shape == ()
    if not integer or not np.issubdtype(feature.np_dtype, np.integer):
        return _Labels(Labelled())
    named = isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None
    if not named and len(records) > MOST_LABELS:
        note = f"{name}: labels without names of more than {MOST_LABELS:,} pictures are not read; it is unlabelled."
        return _Labels(Labelled(notes=(note,)))
    if numbers is None:
        numbers = _numbers(records, every=not named)
    names = tuple(feature.names) if named else None
    found = classes_of(name, numbers, names)
    complete = len(numbers) == len(records) and UNREADABLE not in numbers
    return _Labels(found, numbers, complete)


def _numbers(records: Any, *, every: bool) -> np.ndarray:
    """The labels of all records, or of some where reading all would take long."""
    count = len(records)
    some = [index * count // SAMPLED for index in range(SAMPLED)] if count > SAMPLED else list(range(count))
    if not every:
        every = count <= MOST_LABELS and record_bytes(records, some) * count <= MOST_BYTES
    return read_integers(records, "label", list(range(count)) if every else some, UNREADABLE)
