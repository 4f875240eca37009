"""Which leaves of a train state are split over the devices, and along which axis (`--shard-state`)."""

import math
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import Array, PyTree

SMALLEST = 1 << 12  # elements; to gather a smaller leaf takes longer than its memory is worth


def spread(state: Any) -> Any:
    """Split what is as large as the parameters over `data`; inside jit; the identity without a mesh.

    Split are the parameters, the optimiser's state and those fields of `aux` that hold parameters (`key_params`).
    Batch statistics are small and every step reads the whole queue: they stay whole on every device, as do leaves
    below `SMALLEST` elements and those that the devices do not divide.
    """
    if not sharding.has_mesh():
        return state
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.reshard(leaf, spec(leaf.shape) if _is_large_kind(path) else P()), state
    )


def spec(shape: tuple[int, ...]) -> P:
    """The largest axis that the devices of the present mesh divide is split, the first of equal ones.

    The shape alone decides, so a parameter, its gradient, its moments and its average lie alike.
    """
    devices = sharding.data_devices()
    divisible = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < SMALLEST or not divisible:
        return P()
    largest = max(divisible, key=lambda axis: shape[axis])
    return P(*(sharding.DATA if axis == largest else None for axis in range(len(shape))))


def like(tree: PyTree, model: PyTree) -> PyTree:
    """`tree` laid out over the devices as `model` is; inside jit; the identity without a mesh."""
    if not sharding.has_mesh():
        return tree
    return jax.tree.map(_like, tree, model)


def _like(leaf: Array, model: Array) -> Array:
    return jax.reshard(leaf, jax.typeof(model).sharding.spec)


def _is_large_kind(path: tuple[Any, ...]) -> bool:
    names = [str(getattr(entry, "name", getattr(entry, "key", ""))) for entry in path]
    return names[0] in ("params", "opt_state") or (names[0] == "aux" and "params" in "".join(names[1:2]))
