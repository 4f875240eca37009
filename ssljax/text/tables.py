"""Tables of text with named columns: CSV, TSV and JSON lines, read and written."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.text.reading import read_text, split_lines
from ssljax.types import BadInputError

FORMATS = (".csv", ".tsv", ".jsonl")


class Table(NamedTuple):
    """The rows of a file, as text.

    Attributes:
        path: the file.
        columns: the values of each row, by column.
        lines: the number of the line that each row begins in, from 1.
    """

    path: str
    columns: dict[str, list[str]]
    lines: list[int]

    def column(self, name: str, option: str) -> list[str]:
        """A column by its name, which is the value of an option.

        Raises:
            BadInputError: there is none.
        """
        if name not in self.columns:
            raise BadInputError(f"{option}={name}: {self.path} has no such column, but {', '.join(self.columns)}.")
        return self.columns[name]


def read_table(path: str) -> Table:
    """Read `.csv` with quotation marks, `.tsv` in which they are text, or `.jsonl`; plain or compressed.

    Raises:
        BadInputError: the file cannot be read, is of another format, or a row does not fit the first one.
    """
    kind = _format(path)
    text = read_text(path).removeprefix("\ufeff")
    try:
        rows, lines = {".csv": _csv, ".tsv": _tsv, ".jsonl": _json_lines}[kind](text)
    except (csv.Error, ValueError) as error:
        raise BadInputError(f"{path}, {error}; fix the file.") from None
    if len(rows) < 2:
        raise BadInputError(f"{path} has no rows below a line with the columns' names; give some.")
    head, *body = rows
    twice = next((name for name in head if head.count(name) > 1), None)
    if twice is not None:
        raise BadInputError(f"{path} has the column {twice!r} twice; rename one of them.")
    for row, line in zip(body, lines[1:], strict=True):
        if len(row) != len(head):
            raise BadInputError(f"{path}, line {line}: {len(row)} fields and {len(head)} columns; fix the line.")
    return Table(path, dict(zip(head, map(list, zip(*body, strict=True)), strict=True)), lines[1:])


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length in the format of the path's ending; the file appears whole or not at all."""
    rows = zip(*columns.values(), strict=True)
    output = io.StringIO(newline="")
    kind = _format(str(path))
    if kind == ".jsonl":
        output.writelines(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
    elif kind == ".csv":
        csv.writer(output).writerows([list(columns), *rows])
    else:
        output.writelines("\t".join(map(str, row)) + "\n" for row in (columns, *rows))
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(output.getvalue(), encoding="utf-8", newline="")
    partial.replace(path)


def _format(path: str) -> str:
    found = next((suffix for suffix in reversed(Path(path).suffixes[-2:]) if suffix in FORMATS), None)
    if found is None:
        raise BadInputError(f"{path}: give a table as {', '.join(FORMATS)}, plain or compressed.")
    return found


def _csv(text: str) -> tuple[list[list[str]], list[int]]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines, begins = [], [], 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {begins}: {error}") from None
    return rows, lines


def _tsv(text: str) -> tuple[list[list[str]], list[int]]:
    lines = split_lines(text)
    kept = [number for number, line in enumerate(lines, start=1) if line]
    return [lines[number - 1].split("\t") for number in kept], kept


def _json_lines(text: str) -> tuple[list[list[str]], list[int]]:
    rows, places, names = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} is not JSON") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is not a JSON object")
        if not rows:
            names = list(record)
            rows.append(names)
            places.append(number)
        if set(record) != set(names):
            raise ValueError(f"line {number} has the keys {', '.join(record)} and the first one {', '.join(names)}")
        rows.append([value if isinstance(value, str) else json.dumps(value) for value in map(record.get, names)])
        places.append(number)
    return rows, places
