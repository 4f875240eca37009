"""3x3 convolutions of stride 1 on CPUs by Winograd's algorithm: fewer products, of transformed inputs, for each tile.

Reference: arXiv 1509.09308. The tables interpolate at 0, 1, -1 and infinity, and for tiles of four also at 1/2 and -2,
whose float32 errors are a third of those of the paper's points. The functions are jitted so that equal layers are
traced once.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ssljax.models.cpu import chunks
from ssljax.types import Array

Table = tuple[tuple[float, ...], ...]
Tiles = list[list[Array]]  # arrays [n, h / tile, w / tile, C], one for each place in a tile


class Tables(NamedTuple):
    """The transforms along each of the two spatial axes.

    Attributes:
        tile: results per tile.
        cached: numbers in one of a piece's matrices; a second-level cache fits several.
        inputs: from the tile + 2 inputs to the same number of factors.
        taps: from the three taps of the kernel to the other factors.
        results: from the products to the results.
    """

    tile: int
    cached: int
    inputs: Table
    taps: Table
    results: Table


TWO = Tables(
    2,
    1 << 17,
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    taps=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    results=((1, 1, 1, 0), (0, 1, -1, -1)),
)
FOUR = Tables(
    4,
    1 << 15,
    inputs=(
        (2, -3, -4, 3, 2, 0),
        (0, -2, 1, 5, 2, 0),
        (0, -2, 5, -1, -2, 0),
        (0, 2, 1, -2, -1, 0),
        (0, 1, -2, -1, 2, 0),
        (0, 2, -3, -4, 3, 2),
    ),
    taps=(
        (1 / 2, 0, 0),
        (1 / 6, 1 / 6, 1 / 6),
        (1 / 6, -1 / 6, 1 / 6),
        (16 / 15, 8 / 15, 4 / 15),
        (1 / 30, -2 / 30, 4 / 30),
        (0, 0, 1 / 2),
    ),
    results=((1, 1, 1, 1, 1, 0), (0, 1, -1, 1 / 2, -2, 0), (0, 1, 1, 1 / 4, 4, 0), (0, 1, -1, 1 / 8, -8, 1)),
)
LEAST_FOR_FOUR = 8  # pixels per side


@functools.partial(jax.jit, static_argnums=2)
def forward(x: Array, kernel: Array, stride: int = 1) -> Array:
    """The convolution of float32[B, H, W, C] with [3, 3, C, D], padded with one zero."""
    del stride
    taps = [[kernel[i, j] for j in range(3)] for i in range(3)]
    return _products(x, taps, lambda a, b: a @ b, kernel.shape[3])


@functools.partial(jax.jit, static_argnums=3)
def backward(x: Array, kernel: Array, grad: Array, stride: int = 1) -> Array:
    """The gradient of `x`: the convolution with the kernel rotated by 180 degrees, its channels swapped."""
    del x, stride
    taps = [[kernel[2 - i, 2 - j] for j in range(3)] for i in range(3)]
    # the matmul reads the taps transposed: a transposed copy costs more than the matmul
    return _products(grad, taps, lambda a, b: lax.dot_general(a, b, (((3,), (1,)), ((), ()))), kernel.shape[2])


@functools.partial(jax.jit, static_argnums=3)
def kernel_gradient(x: Array, kernel: Array, grad: Array, stride: int = 1) -> Array:
    """The gradient of the kernel, from the inputs and the gradient of the results."""
    del kernel, stride
    tables = FOUR if all(side >= LEAST_FOR_FOUR and side % 4 == 0 for side in x.shape[1:3]) else TWO
    n, (height, width) = tables.tile, x.shape[1:3]
    places = range(n)

    def piece(x: Array, grad: Array) -> Tiles:
        grad = jnp.pad(grad, [(0, 0), (0, -height % n), (0, -width % n), (0, 0)])
        spread = _transformed([[grad[:, a::n, b::n] for b in places] for a in places], _transposed(tables.results))
        return [
            [a.reshape(-1, a.shape[3]).T @ b.reshape(-1, b.shape[3]) for a, b in zip(*rows, strict=True)]
            for rows in zip(_tiles(x, tables), spread, strict=True)
        ]

    sums = chunks.summed(piece, _rows(tables, x.shape, grad.shape[3]), x, grad)
    return jnp.stack([jnp.stack(row) for row in _transformed(sums, _transposed(tables.taps))])


def _products(x: Array, taps: Tiles, times: Callable, features: int) -> Array:
    spread = _transformed(taps, TWO.taps)
    height, width = x.shape[1:3]

    def piece(x: Array) -> Array:
        products = [
            [times(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(_tiles(x, TWO), spread, strict=True)
        ]
        columns = [jnp.stack(_weighted([row[j] for row in products], TWO.results), 2) for j in range(len(products))]
        # one axis after the other: fused, the first is done again for each result of the second
        joined = jnp.stack(_weighted(lax.optimization_barrier(columns), TWO.results), 4)
        n, rows, _, cols, _, _ = joined.shape
        return joined.reshape(n, rows * TWO.tile, cols * TWO.tile, features)[:, :height, :width]

    return chunks.mapped(piece, _rows(TWO, x.shape, features), x)


def _rows(tables: Tables, shape: tuple[int, ...], features: int) -> int:
    """Rows of the batch at a time."""
    tiles = math.prod(math.ceil(side / tables.tile) for side in shape[1:3])
    return max(tables.cached // (tiles * max(shape[3], features)), 1)


def _tiles(x: Array, tables: Tables) -> Tiles:
    """The transformed inputs of the tiles; entry (i, j) holds place (i, j) of every tile."""
    n, places = tables.tile, range(len(tables.inputs))
    x = jnp.pad(x, [(0, 0), *((1, 1 + -side % n) for side in x.shape[1:3]), (0, 0)])
    ends = [x.shape[1] - n - 1, x.shape[2] - n - 1]
    rows = _weighted([x[:, a : a + ends[0] : n] for a in places], tables.inputs)
    rows = lax.optimization_barrier(rows)
    return [_weighted([row[:, :, b : b + ends[1] : n] for b in places], tables.inputs) for row in rows]


def _transformed(tiles: Tiles, table: Table) -> Tiles:
    """The table applied along both axes."""
    rows = [_weighted([row[j] for row in tiles], table) for j in range(len(tiles[0]))]
    return [_weighted([row[i] for row in rows], table) for i in range(len(table))]


def _weighted(values: list[Array], table: Table) -> list[Array]:
    """For each row of the table the sum of the values times its weights."""
    return [_sum(values, weights) for weights in table]


def _sum(values: list[Array], weights: tuple[float, ...]) -> Array:
    """A weighted sum in few operations, since each is compiled for every place of every layer."""
    sizes = {abs(weight) for weight in weights if weight}
    shared = sizes.pop() if len(sizes) == 1 else 1
    terms = [(weight / shared, value) for weight, value in zip(weights, values, strict=True) if weight]
    parts = [(weight, value if abs(weight) == 1 else abs(weight) * value) for weight, value in terms]
    plus, minus = [part for weight, part in parts if weight > 0], [part for weight, part in parts if weight < 0]
    total = sum(plus[1:], plus[0]) if plus else -minus.pop()
    for part in minus:
        total -= part
    return total if shared == 1 else shared * total


def _transposed(table: Table) -> Table:
    return tuple(zip(*table, strict=True))
