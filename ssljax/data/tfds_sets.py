"""Finding a prepared set of tensorflow-datasets, for any field."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from ssljax.types import BadInputError

PIECE = 1024  # records read at a time


def prepared_builder(tfds: Any, name: str, data_dir: str | None) -> Any:
    """The builder of a set that is prepared.

    Args:
        tfds: the library, `tensorflow_datasets`.
        name: name of the set.
        data_dir: directory of the sets; None: tfds' own default.

    Raises:
        BadInputError: it is not prepared there; the message names the command that prepares it.
    """
    from etils import epath

    where = None if data_dir is None else os.fspath(epath.Path(data_dir).expanduser())
    try:
        builder = tfds.builder(name, data_dir=where)
        prepared = bool(builder.info.splits)
    except (ValueError, ImportError, OSError, AssertionError) as error:
        raise BadInputError(_unprepared(name, data_dir)) from error
    if not prepared:
        raise BadInputError(_unprepared(name, data_dir))
    return builder


def _unprepared(name: str, data_dir: str | None) -> str:
    place = "in tfds' own folder" if data_dir is None else f"in {data_dir}"
    return f"tfds:{name} is not prepared {place}; if the name is right, run: {build_command(name, data_dir)}"


def build_command(name: str, data_dir: str | None) -> str:
    """The command that prepares a set as array_record."""
    return f"tfds build {name} --file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")


def open_records(builder: Any, name: str, split: str, data_dir: str | None, decoders: Any = None) -> Any:
    """The records of one split, or of a slice such as "train[:10%]", of a set called `name`.

    Raises:
        BadInputError: it is not array_record, has no such split, or the slice is invalid or empty.
    """
    try:
        if builder.info.splits[split].num_examples > 0:
            return builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError as error:
        raise BadInputError(f"tfds:{name} is not array_record; run: {build_command(name, data_dir)}") from error
    except (ValueError, KeyError) as error:
        if split.partition("[")[0] not in builder.info.splits:
            raise missing_split(f"tfds:{name}", split, builder.info.splits) from error
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadInputError(f"tfds:{name}: split {split!r} is no valid slice ({reason}); correct it.") from error
    raise BadInputError(f"tfds:{name}: split {split!r} holds no records; give a larger slice, or another split.")


def read_integers(records: Any, feature: str, indices: list[int], unreadable: int) -> np.ndarray:
    """One integer feature of many records, int64[n], without decoding the others; `unreadable` where damaged."""
    from tensorflow_datasets.proto import tf_example_pb2

    parse: Any = tf_example_pb2.Example.FromString  # type: ignore[attr-defined]

    def one(index: int) -> int:
        try:
            return int(records[index][feature])
        except Exception:  # array_record and tfds raise several kinds of exceptions on damaged bytes
            return unreadable

    found = []
    for low in range(0, len(indices), PIECE):
        piece = indices[low : low + PIECE]
        try:
            examples = map(parse, records.data_source.__getitems__(piece))
            found += [example.features.feature[feature].int64_list.value[0] for example in examples]
        except Exception:
            found += map(one, piece)
    return np.array(found, np.int64)


def record_bytes(records: Any, indices: list[int]) -> float:
    """The mean size of these records as they are stored; 0 where they cannot be read."""
    try:
        return float(np.mean([len(raw) for raw in records.data_source.__getitems__(indices)]))
    except Exception:  # as above
        return 0.0


class MissingSplitError(BadInputError):
    """A set has no split of this name.

    Attributes:
        splits: those that it has.
    """

    splits: tuple[str, ...] = ()


def missing_split(name: str, split: str, splits: Iterable[str]) -> MissingSplitError:
    """The error for a split that is not there, with those that are."""
    there = tuple(sorted(splits))
    error = MissingSplitError(f"{name} has no split {split!r}; there are: {', '.join(there)}.")
    error.splits = there
    return error
