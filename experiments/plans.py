"""What the large recipes need on TPU slices: each is compiled for a slice of v4, v5e, v5p and v6e, on any machine.

Every program is compiled in a process of its own by libtpu (`pip install 'ssljax[plan]'`); nothing is run on a TPU, so
all times are estimates. A plan that experiments/results/plans.json already has from the same versions is not
made again; a recipe that cannot be compiled gets a row with the reason. `make results` copies the table to
ssljax/plan/README.md.

With JAX_OPTIMIZATION_LEVEL=O1 in the environment a program takes a quarter of the time. Its row says so: less is fused
then, so that memory and traffic are overestimates.

Paper: none
Figure: none
Command: python -m experiments.plans [--only moco_v2_imagenet bert_large] [--chips v5e v6e]
Cost: half an hour a recipe on two CPU cores, some 4 GB of memory
Differs: memory, collectives and operations are the compiled programs' own, times follow from published peak figures
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.cli.experiments import refuse
from ssljax.plan import children, chips, making
from ssljax.plan.table import in_words
from ssljax.run import results as records
from ssljax.run.ledger import paragraphs
from ssljax.types import BadInputError

RESULTS = records.RESULTS / "plans.json"
AT_ONCE = "at once"  # earlier plans added up all temporaries, also those that are never live together
SHOWN = ("gather", "while")  # what the views' programs are to be free of


class Wanted(NamedTuple):
    """A recipe as it would be run, and on how many chips."""

    name: str
    options: tuple[str, ...]
    chips: int
    """Kinds of TPU chips to compile for."""


# eight chips for the eight slices of the batch that MoCo normalises separately; more if state or activations need it
RECIPES = (
    Wanted("moco_v1_imagenet", (), 8),
    Wanted("moco_v2_imagenet", (), 8),
    Wanted("moco_v3_imagenet", (), 64),
    Wanted("bert_base", ("--bfloat16", "--scan"), 16),
    Wanted("bert_large", ("--bfloat16", "--scan", "--remat"), 16),
    Wanted("bert_large_lamb", ("--bfloat16", "--scan", "--remat"), 256),
    Wanted("bert_miniatures", ("--size", "medium", "--bfloat16", "--scan"), 8),
    Wanted("bert_wiki_small", ("--bfloat16",), 4),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compile."""

    only: tuple[str, ...] = ()
    """Recipes to compile; empty: all."""
    chips: tuple[str, ...] = tuple(chips.CHIPS)
    """Kinds of chips."""
    again: bool = False
    """Also compile what the same versions have already compiled."""
    out: str = str(RESULTS)
    """Results file."""


def run(config: Config, ask: Callable[[dict[str, Any]], dict[str, Any]] = children.ask) -> None:
    """Compile what is missing and append it, plan after plan.

    Raises:
        BadInputError: no such recipe or chip, or libtpu is missing.
    """
    names = [each.name for each in RECIPES]
    _check("recipe", config.only, names)
    _check("chip", config.chips, list(chips.CHIPS))
    wanted = [each for each in RECIPES if each.name in (config.only or names)]
    versions = making.versions()
    if ask is children.ask:
        children.libtpu_version()  # without it no row is worth writing
    for each in wanted:
        for kind in config.chips:
            topology = chips.slices(kind, each.chips).name
            if config.again or not _is_done(Path(config.out), each, topology, versions):
                found = _plan(each, topology, ask) | {"versions": versions, "date": time.strftime("%Y-%m-%d")}
                _put(Path(config.out), found)


def _check(what: str, given: tuple[str, ...], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise BadInputError(f"unknown {what} {name!r}; use one of {', '.join(known)}.")


def _plan(each: Wanted, topology: str, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A plan with its views' operations, or why there is none."""
    say = functools.partial(print, file=sys.stderr, flush=True)
    try:
        plan = making.make(each.name, topology, each.options, advise=False, ask=ask, say=say)
        request = {"what": "views", "topology": topology, "name": each.name, "options": list(each.options)}
        operations = ask(request)["operations"]
        found = {name: operations.get(name, 0) for name in SHOWN}
        return plan | {"operations_of_views": found, "temporaries": AT_ONCE}
    except BadInputError as error:
        return {"experiment": each.name, "options": list(each.options), "topology": topology, "failed": str(error)}


def read(path: Path) -> list[dict[str, Any]]:
    """The plans of a results file; none if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["experiment"], tuple(row["options"]), row["topology"]


def _is_done(path: Path, each: Wanted, topology: str, versions: dict[str, str]) -> bool:
    sought = (each.name, each.options, topology)
    rows = [row for row in read(path) if _key(row) == sought]
    return any(row["versions"] == versions and row.get("temporaries") == AT_ONCE for row in rows)


def _put(path: Path, found: dict[str, Any]) -> None:
    """Add a plan to the file, or put it in its predecessor's place."""
    order = [each.name for each in RECIPES]
    # read anew: another process may have added one meanwhile
    rows = [row for row in read(path) if _key(row) != _key(found)] + [found]
    rows.sort(key=lambda row: (order.index(row["experiment"]), row["topology"]))
    records.write(path, json.dumps(rows, indent=1) + "\n")


def as_markdown(path: Path) -> str:
    """The plans as a table; all stretches of a recipe share a cell, in order."""
    lines = [
        "| recipe | slice | memory a chip | sent a chip and step | bound | steps/s: bound, at 40 % | hours, chip-hours "
        "| compiled in, on one core |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in read(path):
        recipe = f"`{' '.join((row['experiment'], *row['options']))}`"
        if "failed" in row:
            lines.append(f"| {recipe} | {row['topology']} | {row['failed']} | | | | | |")
            continue
        cells = zip(*map(_cells, row["stretches"]), strict=True)
        memory, sent, bound, speed, compiled = (" / ".join(each) for each in cells)
        memory = memory if row.get("temporaries") == AT_ONCE else f"~ {memory}"
        if level := row["versions"].get("optimization_level"):
            compiled += f", at {level}"
        hours = f"{_figure(row['hours'])}, {_figure(row['chip_hours'])}" if "hours" in row else ""
        lines.append(f"| {recipe} | {row['topology']} | {memory} | {sent} | {bound} | {speed} | {hours} | {compiled} |")
    return "\n".join(lines)


def _cells(part: dict[str, Any]) -> tuple[str, ...]:
    """The cells of one stretch."""
    memory = in_words(part["bytes_used"])
    if not part["fits"]:
        return f"{memory} does not fit", "", "", "", ""
    guess = part["estimate"]
    sent = in_words(sum(kind["sent"] for kind in part["collectives"].values()))
    speed = ", ".join(_figure(guess[f"steps_per_second_{at}"]) for at in ("at_bound", "realistic"))
    return memory, sent, guess["bound"], speed, f"{part['processor_seconds_compiling']:.0f} s"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.plans", description=paragraphs(__doc__ or ""))
    try:
        run(config)
    except BadInputError as error:
        sys.exit(refuse(error))
    print(as_markdown(Path(config.out)))


if __name__ == "__main__":
    main()
