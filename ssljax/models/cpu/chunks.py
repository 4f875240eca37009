"""A few rows of a batch at a time, so that their intermediate results fit in a processor's cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ssljax.types import Array, PyTree


def mapped(function: Callable[..., Array], most: int, *arrays: Array) -> Array:
    """`function(*arrays)`, computed for at most `most` rows at a time.

    Args:
        function: arrays [n, ...] -> array [n, ...], row by row.
        most: the most rows at a time; the largest divisor of the batch up to it is used.
        *arrays: each [B, ...].

    Returns:
        Array [B, ...].
    """
    found = lax.map(lambda pieces: function(*pieces), _pieces(most, arrays))
    return found.reshape(-1, *found.shape[2:])


def summed(function: Callable[..., PyTree], most: int, *arrays: Array) -> PyTree:
    """The sum of `function(*rows)` over such pieces, added up in one buffer: storing every term takes long.

    Args:
        function: arrays [n, ...] -> tree of arrays, of the same shapes for every n.
        most: the most rows at a time.
        *arrays: each [B, ...].
    """
    pieces = _pieces(most, arrays)
    shapes = jax.eval_shape(function, *(piece[0] for piece in pieces))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # inside `shard_map` the sums differ between devices, which the type of plain zeros does not allow
    varying = jax.tree.map(lambda zero: zero + 0 * pieces[0].ravel()[0], zeros)

    def add(sums: PyTree, pieces: Any) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, function(*pieces)), None

    return lax.scan(add, varying, pieces)[0]


def _pieces(most: int, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    rows = arrays[0].shape[0]
    # at least two pieces: without a loop XLA repeats the preceding operations in each matmul of a piece
    size = next((size for size in range(min(most, rows // 2), 0, -1) if rows % size == 0), 1)
    return tuple(array.reshape(rows // size, size, *array.shape[1:]) for array in arrays)
