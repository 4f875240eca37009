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

    The recipe's own options follow after --, as in: ssljax plan bert_large --topology v4-128 -- --bfloat16 --remat
    """

    experiment: str
    """Name of a module in the folder experiments of this directory, such as moco_v2_imagenet."""
    topology: str = ""
    """As Google names slices: v5e-16 and v6e-8 count chips; v4-128 and v5p-64 count TensorCores, two a chip."""
    json: str = ""
    """Also write everything to this file."""
    examples: int = 0
    """Pictures in a pass over the data; 0: known for the usual sets."""
    advise: bool = True
    """Where it does not fit, compile what may help: --shard-state, --remat, halves of the batch."""


def plan(command: Plan, options: Sequence[str] = ()) -> None:
    """Print the plan, and write it where asked."""
    target = Path(command.json) if command.json else None
    if target is not None and not target.absolute().parent.is_dir():
        raise BadInputError(f"{target}: the folder does not exist.")
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
