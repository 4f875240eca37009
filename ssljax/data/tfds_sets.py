"""Finding a prepared set of tensorflow-datasets, for any field."""

import os
from collections.abc import Iterable
from typing import Any

from ssljax.types import BadInputError


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
