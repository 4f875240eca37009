"""A plan: what a recipe needs on a TPU slice, and for how long; every time in it is an estimate."""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ssljax.plan import advice, children, chips, estimate, recipes

NOTE = (
    "Estimates: nothing here was run on a TPU. Bytes a chip and collectives are the compiler's own figures for this "
    "step; operations are counted from the traced program; times follow from the chip's published peak figures."
)


def make(
    name: str,
    topology: str,
    options: Sequence[str] = (),
    *,
    examples: int = 0,
    advise: bool = True,
    ask: Callable[[dict[str, Any]], dict[str, Any]] = children.ask,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compile each stretch of a recipe for a slice and estimate its time.

    Args:
        name: name of the recipe's module in `experiments`.
        topology: as Google names it, such as "v5e-16".
        options: options of the recipe, as on its command line.
        examples: pictures in a pass; 0: those of the sets that are known.
        advise: compile changes where a stretch does not fit.
        ask: runs a request; `children.ask` runs it in a process of its own.
        say: called with progress messages.

    Returns:
        What `table.as_text` shows, of numbers, strings, lists and dicts.

    Raises:
        BadInputError: no such topology or recipe, invalid options, or libtpu missing, locked or at a loss.
    """
    slice_ = chips.parse(topology)
    recipe = recipes.read(name, options, examples=examples)
    request = {"what": "step", "topology": slice_.name, "name": name, "options": list(options), "examples": examples}
    parts = []
    for number, stretch in enumerate(recipe.stretches):
        say(f"Compiling {name} ({stretch.label}) for {slice_.name}: some minutes.")
        compile_with = functools.partial(_compile, ask, request | {"stretch": number}, say)
        answer = compile_with({})
        part = {"label": stretch.label, "steps": stretch.steps, "batch_size": stretch.batch_size}
        part |= described(slice_, answer, stretch.steps)
        if advise and not part["fits"]:
            part["advice"] = advice.advise(recipe, slice_, number, {}, compile_with)
        parts.append(part)
    fits = all(part["fits"] for part in parts)
    totals = {key: sum(part["estimate"][key] for part in parts) for key in ("hours", "chip_hours")} if fits else {}
    return {
        "experiment": name,
        "options": list(options),
        "topology": slice_.name,
        "described": slice_.described,
        "chips": slice_.chips,
        "note": NOTE,
        "fits": fits,
        "stretches": parts,
        **totals,
        "versions": versions(),
    }


def described(topology: chips.Topology, answer: dict[str, Any], steps: int) -> dict[str, Any]:
    """One stretch of a plan from what `compiling.step` answered."""
    large = answer.get("too_large")
    memory = {kind: size for kind, size in answer["memory"].items() if size}
    part = {
        "fits": large is None,
        "bytes_per_chip": memory,
        "bytes_used": large["used"] if large else sum(memory.values()),
        "bytes_of_chip": large["limit"] if large else topology.chip.hbm_bytes,
        "flops": answer["flops"]["matmul"] + answer["flops"]["convolution"],
        "seconds_tracing": answer["seconds"]["trace"],
    }
    if large is None:
        part["collectives"] = answer["collectives"]
        part["hbm_bytes_per_step"] = answer["hbm_bytes"]
        part["estimate"] = estimate.times(topology, answer, steps)
        part["seconds_compiling"] = answer["seconds"]["compile"]
        part["processor_seconds_compiling"] = answer["seconds"]["processor"]
    return part


def _compile(ask: Callable, request: dict[str, Any], say: Callable[[str], None], overrides: dict[str, Any]) -> dict:
    if overrides:
        say(f"Compiling with {', '.join(f'{name}={value}' for name, value in overrides.items())}.")
    return ask(request | {"overrides": overrides})


def versions() -> dict[str, str]:
    """Versions of what compiles, with jax's optimisation level if one is set."""
    try:
        libtpu = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        libtpu = "none"
    level = jax.config.jax_optimization_level  # type: ignore[attr-defined]
    asked = {} if level in (None, "UNKNOWN") else {"optimization_level": level}
    return {"jax": jax.__version__, "libtpu": libtpu} | asked
