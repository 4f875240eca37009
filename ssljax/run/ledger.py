"""The experiments as tables: the paper's row from a module's docstring, ours from the records that its runs left."""

import ast
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FIELDS = ("Paper", "Figure", "Command", "Cost", "Differs")
# options that say how large a run is: with less of one it is a reduced run
SIZES = ("epochs", "steps", "lengths", "train_examples", "stage_sizes", "width", "layers", "hidden")

Record = dict[str, Any]


class PaperRow(NamedTuple):
    """One module of experiments.

    Attributes:
        name: of the module.
        title: the docstring's first line.
        fields: its `Name: text` lines, of `FIELDS`.
        measures: whether it has results: it builds an experiment, or its docstring names a paper's figure. Others are
            tools.
        records: what runs have recorded, oldest first.
        recipe: the defaults of its options; empty: not known.
    """

    name: str
    title: str
    fields: dict[str, str]
    measures: bool
    records: list[Record]
    recipe: Mapping[str, Any] = {}

    @property
    def newest(self) -> list[Record]:
        """The last record of each set of options and kind of device."""
        kinds = {json.dumps([record["options"], record["environment"]["device"]]): record for record in self.records}
        return list(kinds.values())

    @property
    def ours(self) -> str:
        """The newest records in words, or "not run"."""
        return "; ".join(map(describe, self.newest)) or "not run"


def paragraphs(docstring: str) -> str:
    """The docstring with an empty line before each of its fields, for those who print it."""
    return re.sub(r"\n(?=\w+: )", "\n\n", docstring)


def read(directory: Path) -> list[PaperRow]:
    """Every experiment module of `directory`, without importing it, with the records of `directory/results`."""
    found = []
    for path in sorted(directory.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        module = ast.parse(path.read_text())
        docstring = ast.get_docstring(module) or ""
        fields, results = _fields(docstring), directory / "results" / f"{path.stem}.json"
        builds = any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in module.body)
        measures = builds or not fields.get("Figure", "none").startswith("none")
        # a tool's results are a table of its own
        records = json.loads(results.read_text()) if measures and results.exists() else []
        title, *_ = docstring.splitlines() or [""]
        found.append(PaperRow(path.stem, title.rstrip("."), fields, measures, records))
    return found


def describe(record: Record) -> str:
    """One record in a line: figures, those of its controls, what was changed, how long it took, where and when."""
    against = f" against {controls(record)}" if controls(record) else ""
    changed = f" with {_options(record['options'])}" if record["options"] else ""
    return f"{figures(record)}{against}{changed} ({', '.join(_run(record))})"


def figures(record: Record) -> str:
    """The figures of the trained model, which is the last row of a record's results."""
    return _cells(list(record["results"].values())[-1])


def controls(record: Record, short: bool = False) -> str:
    """The other rows: raw inputs, the untrained encoder, counted words and the like.

    Args:
        record: of a run.
        short: leave out the names of the figures of a row that has all of the trained model's, in their order.
    """
    *others, (_, ours) = record["results"].items()
    found = []
    for label, cells in others:
        alike = short and list(cells) == list(ours)
        found.append(f"{label} " + (" / ".join(f"{value:.1f}" for value in cells.values()) if alike else _cells(cells)))
    return "; ".join(found)


def caveat(record: Record, recipe: Mapping[str, Any], data: Mapping[str, str]) -> str:
    """What has to stand beside a figure: a smaller run than the recipe's, other data than the paper's; "" if neither.

    Args:
        record: of a run.
        recipe: defaults of the experiment's options.
        data: what is to be said of the data sets that records name.
    """
    options = record["options"]
    smaller = any(_size(options[name]) < _size(recipe[name]) for name in SIZES if name in options and name in recipe)
    other = data.get(options.get("data", ""))
    return ", ".join(filter(None, ["reduced" if smaller else "", other]))


def as_text(found: list[PaperRow]) -> str:
    """The list for a terminal."""
    lines = []
    for row in found:
        lines += [f"{row.name}: {row.title}"]
        shown = (("paper", row.fields["Figure"]), ("ours", row.ours)) if row.measures else ()
        for label, text in shown:
            lines += textwrap.wrap(text, 100, initial_indent=f"  {label}: ", subsequent_indent="    ")
    return "\n".join([*lines, "", "Run one with: python -m experiments.NAME   (--help lists its options)"])


def as_markdown(found: list[PaperRow], data: Mapping[str, str]) -> str:
    """The ledger: every experiment, with every record of it in a row of its own; `data` as in `caveat`."""
    heads = ("experiment", "paper", "ours", "controls", "options changed", "time, speed", "date, device, commit")
    lines = [_line(*heads), "|---" * len(heads) + "|"]
    for row in (row for row in found if row.measures):
        name, paper = f"[`{row.name}`]({row.name}.py): {row.title}", row.fields["Figure"]
        for record in row.records:
            *speed, date, device, commit = _run(record)
            own, changed = _ours(row, record, data), _options(record["options"])
            lines.append(
                _line(name, paper, own, controls(record), changed, ", ".join(speed), f"{date}, {device}, {commit}")
            )
        if not row.records:
            lines.append(_line(name, paper, "not run", "", "", "", ""))
    return "\n".join(lines)


def summary(found: list[PaperRow], data: Mapping[str, str], most: int = 4) -> str:
    """The README's table: what has been run, in short; at most so many of the options that were changed."""
    heads = ("experiment", "ours", "controls", "paper", "run", "device, date")
    lines = [_line(*heads), "|---" * len(heads) + "|"]
    for row in found:
        paper = re.sub(r" \([^()]*\)$", "", row.fields.get("Figure", ""))
        for record in row.newest:
            epochs, where = record.get("last_metrics", {}).get("epoch"), record["environment"]
            length = [f"{epochs:.3g} epochs"] if epochs else []
            changed = {name: value for name, value in record["options"].items() if name != "epochs" or not epochs}
            name, run = f"`{row.name}`: {row.title.partition(': ')[0]}", [*length, _options(changed, most)]
            shown = _ours(row, record, data), controls(record, short=True), paper, ", ".join(filter(None, run))
            lines.append(_line(name, *shown, f"{where['device']}, {where['date']}"))
    return "\n".join(lines) if len(lines) > 2 else "Not run."


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a generated table of a page."""
    return f"<!-- {name}: make results -->", f"<!-- end of {name} -->"


def with_table(page: str, table: str, name: str) -> str:
    """The page with what stands between the two marks of `name` replaced by the table."""
    begin, end = marks(name)
    before, rest = page.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def _fields(docstring: str) -> dict[str, str]:
    pattern = rf"^({'|'.join(FIELDS)}): (.*?)(?=^\w+: |\Z)"
    found = re.findall(pattern, docstring, flags=re.M | re.S)
    return {name: " ".join(text.split()) for name, text in found}


def _line(*cells: str) -> str:
    escaped = [(cell or "-").replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _cells(cells: Mapping[str, float]) -> str:
    return ", ".join(f"{column.replace('_', ' ')} {value:.1f}" for column, value in cells.items())


def _run(record: Record) -> list[str]:
    """Minutes and speed where they are known, date, device, commit."""
    where, speed = record["environment"], record.get("last_metrics", {}).get("examples_per_second")
    took = [f"{where['seconds'] / 60:.1f} min"] if "seconds" in where else []
    took += [f"{speed:,.0f} examples/s"] if speed else []
    return [*took, where["date"], where["device"], where["commit"]]


def _ours(row: PaperRow, record: Record, data: Mapping[str, str]) -> str:
    said = caveat(record, row.recipe, data)
    return figures(record) + (f" ({said})" if said else "")


def _options(options: Mapping[str, Any], most: int | None = None) -> str:
    """The options that were changed; at most so many, those that say how large the run is first."""
    most = len(options) if most is None else most
    order = sorted(options, key=lambda name: (name != "data", name not in SIZES))
    more = [f"{len(order) - most} more"] if len(order) > most else []
    return ", ".join([*(f"{name} {options[name]}" for name in order[:most]), *more])


def _size(value: Any) -> float:
    """A number, or what a list adds up to; None, which stands for everything, is the largest."""
    if value is None:
        return float("inf")
    return sum(value) if isinstance(value, list | tuple) else value
