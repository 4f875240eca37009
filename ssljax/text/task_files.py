"""Rows of labelled sentences from a TSV file or from tensorflow-datasets, with where each of them is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.data.tfds_sets import build_command, missing_split, prepared_builder
from ssljax.text.reading import read_text, split_lines
from ssljax.types import BadInputError

Columns = tuple[tuple[str, ...], ...]  # the names that each wanted column may have


class Row(NamedTuple):
    """One example as text.

    Attributes:
        where: the file and line, for error messages.
        first: the first sentence.
        second: the second sentence.
        label: the label as text.
    """

    where: str
    first: str
    second: str
    label: str


def tsv_rows(path: Path, columns: Columns, headless: Sequence[str], broken_lines: bool) -> Iterator[Row]:
    """The rows of a tab-separated file with a header line, quotation marks being text like any other.

    Args:
        path: the file.
        columns: possible names of the first sentence's, the second sentence's and the label's column.
        headless: the columns of a file whose first line has as many fields but names none of them.
        broken_lines: skip lines with too few fields instead of refusing them.

    Raises:
        BadInputError: not UTF-8, no such columns, or too few fields in a line.
    """
    lines = _lines(path)
    begins = 2
    if headless and len(lines[0]) == len(headless) and not set(headless) & set(lines[0]):
        lines, begins = [list(headless), *lines], 1
    held = ", ".join(lines[0]) or "nothing"
    places = [
        lines[0].index(_present(names, lines[0], f"{path} has no column {names[0]!r} in its first line, but {held}."))
        for names in columns
    ]
    for number, fields in enumerate(lines[1:], start=begins):
        if fields == [""] or (broken_lines and len(fields) <= max(places)):
            continue
        if len(fields) <= max(places):
            raise BadInputError(f"{path}, line {number}: {len(fields)} of the {len(lines[0])} fields; fix the line.")
        first, second, label = (fields[place] for place in places)
        yield Row(f"{path}, line {number}", first, second, label.strip())


def tfds_rows(name: str, split: str, columns: Columns, data_dir: str | None) -> Iterator[Row]:
    """The rows of one split of a prepared set, read without TensorFlow.

    Raises:
        BadInputError: the set is not prepared, or has no such split or features.
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(tfds, name, data_dir)
    try:
        records: Any = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise BadInputError(f"tfds:{name} is not array_record; run: {build_command(name, data_dir)}") from error
    except (ValueError, KeyError) as error:
        raise missing_split(f"tfds:{name}", split, builder.info.splits) from error
    held = list(builder.info.features)
    features = [
        _present(names, held, f"tfds:{name} has no feature {names[0]!r} but {', '.join(held)}; use another set.")
        for names in columns
    ]
    for number in range(len(records)):
        record = records[number]
        first, second, label = (_text(record[feature]) for feature in features)
        yield Row(f"tfds:{name} ({split}), record {number}", first, second, label)


def _lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in split_lines(read_text(path).removeprefix("\ufeff"))]


def _present(names: tuple[str, ...], held: list[str], otherwise: str) -> str:
    for name in names:
        if name in held:
            return name
    raise BadInputError(otherwise)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
