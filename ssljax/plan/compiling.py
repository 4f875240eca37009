"""Compile one step for a TPU slice and say what it needs; run as a process of its own, which libtpu may take with it.

`python -m ssljax.plan.compiling REQUEST.json ANSWER.json`; `ssljax.plan.children` starts it.
"""

import json
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.plan import chips, collectives, flops, hlo, recipes, traffic
from ssljax.train.state import TrainState, init_state
from ssljax.train.step import compile_step
from ssljax.types import BadInputError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def main(request: str, answer: str) -> None:
    """Read a request, do it, write the answer."""
    asked = json.loads(Path(request).read_text())
    try:
        found = {"step": step, "views": views}[asked.pop("what")](**asked)
    except BadInputError as error:
        found = {"refused": str(error)}
    Path(answer).write_text(json.dumps(found))


def step(topology: str, stretch: int, **recipe: Any) -> dict[str, Any]:
    """What the train step of a recipe needs on each chip.

    Args:
        topology: such as "v5e-16".
        stretch: which of the recipe's stretches.
        **recipe: arguments of `recipes.read`.

    Returns:
        Bytes a chip by kind (`memory`), `collectives`, `hbm_bytes`, `flops`, and `seconds` of tracing and compiling
        (`processor`: of all its threads, whatever else the machine does);
        `memory` has only what is known where it does not fit, with the compiler's `used` and `limit`.
    """
    found = recipes.read(**recipe)
    views, batch = found.experiment.views, found.stretches[stretch].batch
    method, optimizer = found.method, found.optimizer
    with sharding.use_mesh(mesh(chips.parse(topology))):
        placed = _placed(batch)
        first = found.stretches[0].batch
        state = jax.eval_shape(
            lambda: init_state(method, optimizer, views, first, 0, shard_state=found.config.shard_state)
        )
        began = time.time()
        traced = compile_step(method, views, optimizer).trace(state, placed)
        counted = flops.count_jaxpr(traced.jaxpr.jaxpr)
        answer = {
            "flops": {"matmul": counted.matmul, "convolution": counted.convolution, "passes": counted.passes},
            "memory": state_bytes(state) | {"batch": _bytes(placed)},
            "seconds": {"trace": time.time() - began},
        }
        began, worked = time.time(), time.process_time()
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            return answer | _too_large(error)
        answer["seconds"] |= {"compile": time.time() - began, "processor": time.process_time() - worked}
        answer["memory"] |= _temporary(compiled.memory_analysis(), answer["memory"])
        program = hlo.parse(compiled.as_text())
    moved = collectives.read(program, chips.parse(topology).chips)
    answer["collectives"] = {kind: value._asdict() for kind, value in moved.items()}
    return answer | {"hbm_bytes": traffic.hbm_bytes(program)}


def views(topology: str, **recipe: Any) -> dict[str, Any]:
    """How often each operation occurs in the compiled views of a recipe's first batches: `{"operations": ...}`."""
    found = recipes.read(**recipe)
    with sharding.use_mesh(mesh(chips.parse(topology))):
        placed = _placed(found.stretches[0].batch)
        key = jax.eval_shape(lambda: jax.random.key(0))
        compiled = jax.jit(found.experiment.views).lower(key, **placed).compile()
    lines = [line for lines in hlo.parse(compiled.as_text() or "").computations.values() for line in lines]
    return {"operations": Counter(line.opcode for line in lines)}


def mesh(topology: chips.Topology) -> Mesh:
    """The slice's chips, not attached, as a mesh of one Explicit axis `data`."""
    three = (*topology.shape, 1, 1)[:3]
    options: dict[str, Any] = {"chips_per_host_bounds": three} if topology.chips == 1 else {}
    if topology.chip.cores > 1:
        options["chip_config_name"] = "megacore"
    # a side of 1 must be named where the chip is wired in three dimensions, and may be nowhere else
    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    described = topologies.get_topology_desc(name, platform="tpu", **options)
    ordered = topologies.make_mesh(described, (len(described.devices),), (sharding.DATA,))
    return Mesh(ordered.devices, (sharding.DATA,), axis_types=(AxisType.Explicit,))


def state_bytes(state: TrainState) -> dict[str, int]:
    """Bytes a chip of the state by kind, as the program declares it; the layout of a TPU may pad them."""
    found: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        found[kind_of([str(getattr(key, "name", getattr(key, "key", ""))) for key in path])] += _leaf_bytes(leaf)
    return dict(found)


def kind_of(path: list[str]) -> str:
    """What a leaf of the state is, by the names on the way to it.

    >>> [kind_of(path) for path in (["params", "conv"], ["aux", "key_params"], ["aux", "key_stats"], ["aux", "queue"])]
    ['parameters', 'EMA', 'batch statistics', 'queue']
    """
    if path[0] == "params":
        return "parameters"
    if path[0] == "opt_state":
        return "optimiser"
    if path[0] == "aux" and len(path) > 1:
        for word, kind in (("queue", "queue"), ("stats", "batch statistics"), ("params", "EMA")):
            if word in path[1]:
                return kind
    return "other"


def _placed(batch: Any) -> Any:
    """Shapes of a batch, split over the present mesh."""
    split = NamedSharding(jax.sharding.get_mesh(), P(sharding.DATA))
    devices = sharding.data_devices()
    for leaf in batch.values():
        if leaf.shape[0] % devices:
            raise BadInputError(f"batch_size={leaf.shape[0]} does not divide over {devices} chips; use a multiple.")
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split) for name, leaf in batch.items()}


def _leaf_bytes(leaf: Any) -> int:
    placed = getattr(leaf, "sharding", None)
    shape = leaf.shape if placed is None else placed.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _bytes(tree: Any) -> int:
    return sum(map(_leaf_bytes, jax.tree.leaves(tree)))


def _temporary(analysis: Any, known: dict[str, int]) -> dict[str, int]:
    """What the compiler adds to state and batch."""
    given = analysis.argument_size_in_bytes
    # the sum of all temporaries is more than the peak: what it lets through could seem too large
    return {
        "padding": given - sum(known.values()),
        "activations and temporaries": max(analysis.peak_memory_in_bytes - given, 0),
        "program": analysis.generated_code_size_in_bytes,
    }


def _too_large(error: Exception) -> dict[str, Any]:
    """The compiler's figures where it says that memory runs out; other errors are raised."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", str(error))
    if found is None:
        raise error
    used, limit = float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]]
    return {"too_large": {"used": int(used), "limit": int(limit)}}


if __name__ == "__main__":
    main(*sys.argv[1:])
