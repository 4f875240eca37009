"""What to change when a step does not fit: found by compiling the changes."""

from collections.abc import Callable
from typing import Any

from ssljax.plan.chips import Topology
from ssljax.plan.recipes import Recipe

Compile = Callable[[dict[str, Any]], dict[str, Any]]  # overrides of the config -> `compiling.step`'s answer


def advise(recipe: Recipe, topology: Topology, stretch: int, overrides: dict[str, Any], compile_with: Compile) -> list:
    """Changes of one thing each, and whether the step then fits.

    Args:
        recipe: that does not fit.
        topology: on this slice.
        stretch: in this stretch.
        overrides: in force.
        compile_with: compiles the step with other overrides.

    Returns:
        `{"change", "overrides", "fits"}` for sharding the state, recomputing, and the largest of the halved batches
        that fits (or the smallest that was tried, which does not).
    """
    tried = []
    for field, words in (("shard_state", "--shard-state"), ("remat", "--remat")):
        if getattr(recipe.config, field, True) is False:
            tried.append(_try(words, overrides | {field: True}, compile_with))
    batch = recipe.stretches[stretch].batch_size
    while (batch := batch // 2) >= topology.chips and batch % topology.chips == 0:
        halved = _with_batch(recipe, stretch, batch)
        tried.append(_try(_as_options(halved), overrides | halved, compile_with) | {"batch_size": batch})
        if tried[-1]["fits"]:
            break
    smaller = [one for one in tried if "batch_size" in one]
    return [one for one in tried if "batch_size" not in one] + smaller[-1:]


def _try(change: str, overrides: dict[str, Any], compile_with: Compile) -> dict[str, Any]:
    return {"change": change, "overrides": overrides, "fits": "too_large" not in compile_with(overrides)}


def _with_batch(recipe: Recipe, stretch: int, batch: int) -> dict[str, Any]:
    if hasattr(recipe.config, "batch_sizes"):
        sizes = list(recipe.config.batch_sizes)
        sizes[stretch] = batch
        return {"batch_sizes": sizes}
    return {"batch_size": batch}


def _as_options(overrides: dict[str, Any]) -> str:
    """As on the recipe's command line."""
    ((name, value),) = overrides.items()
    values = value if isinstance(value, list) else [value]
    return f"--{name.replace('_', '-')} {' '.join(map(str, values))}"
