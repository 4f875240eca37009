"""How far MoCo v2, MoCo v3 and BERT-large scale: bytes sent on 8 to 1,024 chips, and the batch that they ask for.

The train step is compiled for three slices of v5e with 32 rows of the batch on each chip. What two of the programs
with the same kinds of collectives send gives what is fixed and what grows with the batch; rings are assumed beyond, and
the third program says how well that holds. The programs are for 8, 16 and 64 chips; MoCo v2's for 16, 64 and 256, since
from 16 on its ShuffleBN exchanges pictures and no longer gathers them. Slices of v5e and v6e end at 256 chips. Figures
and plot go to experiments/results/scaling.json and .png.

JAX_OPTIMIZATION_LEVEL=O1 takes a quarter of the time and is recorded. It is not for MoCo v2: what that exchanges of its
pictures is then twice as wide, in float32.

Paper: none
Figure: none
Command: python -m experiments.plans_scaling
Cost: a quarter of an hour a recipe on two CPU cores
Differs: estimates from published peak figures; nothing is run on a TPU
"""

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssljax.cli.experiments import refuse
from ssljax.plan import children, chips, making, scaling
from ssljax.run import results as records
from ssljax.run.ledger import paragraphs
from ssljax.types import BadInputError

ROWS = 32
COMPILED = (8, 16, 64)
EXCHANGED = {"moco_v2_imagenet": (16, 64, 256)}
SIZES = tuple(2**power for power in range(3, 11))
RECIPES = {
    "moco_v2_imagenet": lambda count: ("--batch-size", str(ROWS * count), "--batch-norm-groups", str(count)),
    "moco_v3_imagenet": lambda count: ("--batch-size", str(ROWS * count)),
    "bert_large": lambda count: (
        *("--bfloat16", "--scan", "--remat", "--steps", "900000", "--lengths", "128"),
        *("--max-predictions", "20", "--batch-sizes", str(ROWS * count)),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compile, and where the results go."""

    only: tuple[str, ...] = tuple(RECIPES)
    """Recipes to compile; the results of the others are kept."""
    out: str = str(records.RESULTS / "scaling.json")
    """Results file; the plot is written next to it."""


def run(config: Config, ask: Callable[[dict[str, Any]], dict[str, Any]] = children.ask) -> None:
    """Compile, write the figures after each recipe, and plot all results.

    Raises:
        BadInputError: no such recipe, or a program that cannot be compiled or does not fit.
    """
    unknown = {*config.only} - {*RECIPES}
    if unknown:
        raise BadInputError(f"only={', '.join(sorted(unknown))}: unknown recipe; use one of {', '.join(RECIPES)}.")
    out = Path(config.out)
    for name in config.only:
        points = [_point(name, count, ask) for count in EXCHANGED.get(name, COMPILED)]
        held = json.loads(out.read_text()) if out.exists() else {}
        about = {"versions": making.versions(), "date": time.strftime("%Y-%m-%d")}
        records.write(out, json.dumps(held | {name: figures(points) | about}, indent=1) + "\n")
    draw(json.loads(out.read_text()), out.with_suffix(".png"))


def _point(name: str, count: int, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> scaling.Point:
    topology = chips.slices("v5e", count)
    plan = making.make(
        name, topology.name, RECIPES[name](count), advise=False, ask=ask, say=lambda line: print(line, file=sys.stderr)
    )
    (part,) = plan["stretches"]
    if not part["fits"]:
        raise BadInputError(f"{name} with {ROWS} rows a chip does not fit on {topology.name}.")
    payload = {kind: float(each["payload"]) for kind, each in part["collectives"].items()}
    passes = part["estimate"]["seconds_at_peak"]["compute"] * count * topology.chip.flops
    return scaling.Point(count, ROWS, payload, passes)


def figures(points: list[scaling.Point]) -> dict[str, Any]:
    """From the compiled steps, in order, to the curves from the smallest on; None for a batch that is never reached."""
    # on many chips the compiler adds up what it gathers on few: two that differ so give no line
    alike = (pair for pair in itertools.combinations(points, 2) if pair[0].payload.keys() == pair[1].payload.keys())
    fitted = next(alike, tuple(points[:2]))
    growth = scaling.fit(*fitted)
    others = [point for point in points if point not in fitted]
    sizes = [count for count in SIZES if count >= points[0].chips]
    each = points[-1].passes / points[-1].chips / points[-1].rows
    least = {}
    for kind, chip in chips.CHIPS.items():
        there = [count for count in sizes if count <= math.prod(chip.shapes[-1])]
        least[kind] = {str(count): _batch(scaling.least_rows(growth, each, chip, count), count) for count in there}
    return {
        "rows_per_chip": ROWS,
        "compiled": [point._asdict() for point in points],
        "growth": {kind: found._asdict() for kind, found in growth.items()},
        "tera_operations_per_row": each / 1e12,
        "greatest_difference_from_compiled": scaling.disagreement(growth, others),
        "bytes_sent_per_chip": {str(count): round(scaling.bytes_sent(growth, count, ROWS)) for count in sizes},
        "least_global_batch": least,
    }


def _batch(rows: float, count: int) -> int | None:
    return None if math.isinf(rows) else math.ceil(rows * count)


def draw(results: dict[str, Any], path: Path) -> None:
    """Bytes a chip and step over the chips, with the compiled programs as dots; and the least batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, found) in enumerate(results.items()):
        color = f"C{i}"
        sent = found["bytes_sent_per_chip"]
        left.plot([int(count) for count in sent], [size / 1e9 for size in sent.values()], color=color, label=name)
        for point in (scaling.Point(**each) for each in found["compiled"]):
            left.plot(point.chips, point.sent / 1e9, "o", color=color)
        for style, (kind, batches) in zip(("-", "--", "-.", ":"), found["least_global_batch"].items(), strict=True):
            reached = {int(count): batch for count, batch in batches.items() if batch is not None}
            right.plot([*reached], [*reached.values()], style, color=color, label=f"{name}, {kind}")
    left.set(title=f"sent by each chip in a step, {ROWS} rows a chip\n(line: rings, dots: compiled)", ylabel="GB")
    right.set(title="global batch below which the network takes longer\nthan computing, both at peak", ylabel="rows")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="chips")
        axes.set_xticks(SIZES, list(map(str, SIZES)))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    partial = path.with_name(f"{path.stem}.partial.png")
    figure.savefig(partial, dpi=100)
    partial.replace(path)


def main() -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.plans_scaling", description=paragraphs(__doc__ or ""))
    try:
        run(config)
    except BadInputError as error:
        sys.exit(refuse(error))
    print(f"{config.out} and {Path(config.out).with_suffix('.png')} written.")


if __name__ == "__main__":
    main()
