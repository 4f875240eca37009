"""The experiments as a table: each module's docstring is a paper's row, its results file what was measured here."""

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

FIELDS = ("Paper", "Figure", "Ours", "Command", "Cost", "Differs")


class PaperRow(NamedTuple):
    """One experiment.

    Attributes:
        name: of the module.
        title: the docstring's first line.
        fields: its `Name: text` lines, of `FIELDS`; without `Ours` it is a tool, not a measurement.
        records: what runs have recorded, oldest first.
    """

    name: str
    title: str
    fields: dict[str, str]
    records: list[dict[str, Any]]

    @property
    def ours(self) -> str:
        """The last record of each set of options in words, or "not run"."""
        newest = {json.dumps([record["options"], record["environment"]["device"]]): record for record in self.records}
        return "; ".join(map(describe, newest.values())) or "not run"


def paragraphs(docstring: str) -> str:
    """The docstring with an empty line before each of its fields, for those who print it."""
    return re.sub(r"\n(?=\w+: )", "\n\n", docstring)


def read(directory: Path) -> list[PaperRow]:
    """Every experiment module of `directory`, without importing it, with the records of `directory/results`."""
    found = []
    for path in sorted(directory.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        fields, results = _fields(docstring), directory / "results" / f"{path.stem}.json"
        # a tool's results are a table of its own
        records = json.loads(results.read_text()) if "Ours" in fields and results.exists() else []
        title, *_ = docstring.splitlines()
        found.append(PaperRow(path.stem, title.rstrip("."), fields, records))
    return found


def describe(record: dict[str, Any]) -> str:
    """One record in a line: the trained model's figures, what was changed, how long it took, date, device, commit."""
    label = list(record["results"])[-1]
    figures = ", ".join(f"{column} {value:.1f}" for column, value in record["results"][label].items())
    others = [
        f"{row} " + ", ".join(f"{column} {value:.1f}" for column, value in values.items())
        for row, values in record["results"].items()
        if row != label
    ]
    options = ", ".join(f"{key} {value}" for key, value in record["options"].items())
    where = record["environment"]
    against = f" against {'; '.join(others)}" if others else ""
    reduced = f" with {options}" if options else ""
    took = f"{where['seconds'] / 60:.1f} min, " if "seconds" in where else ""
    return f"{figures}{against}{reduced} ({took}{where['date']}, {where['device']}, {where['commit']})"


def as_text(found: list[PaperRow]) -> str:
    """The list for a terminal."""
    lines = []
    for row in found:
        lines += [f"{row.name}: {row.title}"]
        told = (("paper", row.fields["Figure"]), ("ours", row.ours)) if "Ours" in row.fields else ()
        for label, text in told:
            lines += textwrap.wrap(text, 100, initial_indent=f"  {label}: ", subsequent_indent="    ")
    return "\n".join([*lines, "", "Run one with: python -m experiments.NAME   (--help lists its options)"])


def as_markdown(found: list[PaperRow]) -> str:
    """The README's table; a module whose docstring has no `Ours:` measures nothing and is left out."""
    lines = ["| experiment | paper | ours |", "|---|---|---|"]
    lines += [
        f"| `{row.name}`: {row.title} | {row.fields['Figure']} | {row.ours} |" for row in found if "Ours" in row.fields
    ]
    return "\n".join(lines)


def write(directory: Path, found: list[PaperRow]) -> None:
    """Put the recorded figures into the modules' docstrings and the README beside `directory`."""
    for row in found:
        path = directory / f"{row.name}.py"
        path.write_text(with_ours(path.read_text(), row.ours))
    readme = directory.parent / "README.md"
    readme.write_text(with_table(readme.read_text(), as_markdown(found)))


def with_ours(source: str, ours: str) -> str:
    """A module's source with the docstring's `Ours:` line replaced."""
    line = "\n".join(textwrap.wrap(f"Ours: {ours}", 108, subsequent_indent="    ", break_long_words=False))
    return re.sub(r"^Ours:.*?(?=^\w+:)", lambda _: line + "\n", source, count=1, flags=re.M | re.S)


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a table of the README."""
    return f"<!-- {name}: make results -->", f"<!-- end of {name} -->"


def with_table(readme: str, table: str, name: str = "results") -> str:
    """The README with the table between the two marks of `name` replaced."""
    begin, end = marks(name)
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def _fields(docstring: str) -> dict[str, str]:
    pattern = rf"^({'|'.join(FIELDS)}): (.*?)(?=^(?:{'|'.join(FIELDS)}):|\Z)"
    found = re.findall(pattern, docstring, flags=re.M | re.S)
    return {name: " ".join(text.split()) for name, text in found}
