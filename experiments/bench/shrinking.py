"""The sides of any benchmark made so small that a CPU runs them in seconds: whether they work, not how fast."""

import os
from collections.abc import Sequence

from experiments.bench import machine
from experiments.bench.harness import Side

SMALL = {"depth": 4, "batch": 8, "steps": 1, "images": 8, "length": 16, "words": 200}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def shrink(sides: Sequence[Side]) -> list[Side]:
    """Small models and batches, in place of the sides' own; torch.compile compiles nothing, ceilings are left out."""
    os.environ["TORCH_COMPILE_DISABLE"] = "1"
    return [side._replace(options=_small(side.options)) for side in sides if side.label not in machine.LABELS]


def _small(options: dict) -> dict:
    small = {name: min(value, SMALL[name]) if name in SMALL else value for name, value in options.items()}
    if "size" in options:
        small["size"] = 32 if isinstance(options["size"], int) else "tiny"
    if "shape" in options:
        small["shape"] = SHAPE
    return small
