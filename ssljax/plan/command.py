"""The command `ssljax plan`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ssljax.plan import making, table
from ssljax.types import BadInputError


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compile a recipe for a TPU slice on this machine, and estimate memory, bound, hours and chip-hours.

    Options of the recipe follow after --, as in: ssljax plan bert_large --topology v4-128 -- --bfloat16 --remat
    """

    experiment: str
    """Recipe: a module in the folder experiments of this directory, such as moco_v2_imagenet."""
    topology: str = ""
    """TPU slice by Google's name: v5e-16 and v6e-8 count chips; v4-128 and v5p-64 count TensorCores, two per chip."""
    json: str = ""
    """File to also write the plan to, as JSON; empty: none."""
    examples: int = 0
    """Number of images in an epoch; 0: that of the known data sets."""
    advise: bool = True
    """If the recipe does not fit, compile what may help: --shard-state, --remat, smaller batches."""


def plan(command: Plan, options: Sequence[str] = ()) -> None:
    """Print the plan, and write it where asked."""
    target = Path(command.json) if command.json else None
    if target is not None and not target.absolute().parent.is_dir():
        raise BadInputError(f"{target}: the folder does not exist; make it first.")
    made = making.make(
        command.experiment,
        command.topology,
        options,
        examples=command.examples,
        advise=command.advise,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(table.as_text(made))
    if target is not None:
        partial = target.with_name(f"{target.name}.partial")
        partial.write_text(json.dumps(made, indent=2) + "\n")
        partial.replace(target)
