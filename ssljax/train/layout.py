"""Which leaves of a train state are sharded over the devices, and along which axis (`--shard-state`)."""

import math
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import Array, PyTree

MIN_SHARDED_SIZE = 1 << 12  # elements; gathering a smaller leaf costs more time than its memory is worth


def shard_state(state: Any) -> Any:
    """Shard the leaves that are as large as the parameters over `data`; inside jit; the identity without a mesh.

    These are the parameters, the optimiser's state and those fields of `aux` that hold parameters (`key_params`).
    Batch statistics are small and every step reads the whole queue: both are replicated, and so are leaves below
    `MIN_SHARDED_SIZE` elements and those that the devices do not divide.
    """
    if not sharding.has_mesh():
        return state
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.reshard(leaf, partition_spec(leaf.shape) if _is_large_kind(path) else P()), state
    )


def partition_spec(shape: tuple[int, ...]) -> P:
    """Shards the largest axis that the devices of the current mesh divide, the first of equal ones.

    It depends on the shape alone, so a parameter, its gradient, moments and average have the same layout.
    """
    devices = sharding.data_devices()
    divisible = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < MIN_SHARDED_SIZE or not divisible:
        return P()
    largest = max(divisible, key=lambda axis: shape[axis])
    return P(*(sharding.DATA if axis == largest else None for axis in range(len(shape))))


def reshard_like(tree: PyTree, model: PyTree) -> PyTree:
    """`tree` with the shardings of `model`; inside jit; the identity without a mesh."""
    if not sharding.has_mesh():
        return tree
    return jax.tree.map(_reshard_like, tree, model)


def _reshard_like(leaf: Array, model: Array) -> Array:
    return jax.reshard(leaf, jax.typeof(model).sharding.spec)


def _is_large_kind(path: tuple[Any, ...]) -> bool:
    names = [str(getattr(entry, "name", getattr(entry, "key", ""))) for entry in path]
    return names[0] in ("params", "opt_state") or (names[0] == "aux" and "params" in "".join(names[1:2]))
