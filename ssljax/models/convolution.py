"""3x3 convolutions of stride 1 on a CPU, where XLA's are slow: Winograd's algorithm F(2x2, 3x3) in matmuls."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import Array

LEAST_CHANNELS, LEAST_SIDE = 64, 4  # below these, or where 2x2 tiles do not divide the sides, less is gained
CACHED = 1 << 17  # numbers in one of a chunk's sixteen matrices: a second-level cache holds some of them
_LAYOUT = ("NHWC", "HWIO", "NHWC")
Tiles = list[list[Array]]  # 4 x 4 or 2 x 2 arrays [n, h / 2, w / 2, C]


def conv_general_dilated(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv`; on a CPU, what `convolve` is for goes to it."""
    usual = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and list(padding) == [(1, 1), (1, 1)]
    usual &= x.ndim == 4 and min(kernel.shape[2:]) >= LEAST_CHANNELS and x.dtype == kernel.dtype == jnp.float32
    usual &= all(side >= LEAST_SIDE and side % 2 == 0 for side in x.shape[1:3])
    dilations = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    usual &= dilations <= {1} and options.get("feature_group_count", 1) == 1 and options.get("precision") is None
    # elsewhere not even the custom gradient, which has no forward mode
    if usual and jax.default_backend() == "cpu":
        return convolve(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


@jax.custom_vjp
def convolve(x: Array, kernel: Array) -> Array:
    """A 3x3 convolution of stride 1, its border padded with one zero; by Winograd's algorithm on a CPU.

    Args:
        x: float32[B, H, W, C].
        kernel: float32[3, 3, C, D].

    Returns:
        float32[B, H, W, D]; within 1e-5 of XLA's, relative to the largest value, and so are the gradients. They are
        those of reverse mode only.

    Reference:
        arXiv 1509.09308: 2x2 results from 4x4 inputs by 16 products instead of 36.
    """
    return lax.platform_dependent(x, kernel, cpu=_winograd, default=_plain)


def _remember(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _gradients(held, grad):
    return lax.platform_dependent(*held, grad, cpu=_winograd_gradients, default=_plain_gradients)


convolve.defvjp(_remember, _gradients)


def _plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=_LAYOUT)


def _plain_gradients(x, kernel, grad):
    # the forward convolution is not in it, as it would be in a vjp
    (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel), x)(grad)
    (of_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel), kernel)(grad)
    return of_x, of_kernel


def _winograd(x, kernel):
    if _is_split(x):
        return jax.shard_map(_forward, in_specs=(P(sharding.DATA), P()), out_specs=P(sharding.DATA))(x, kernel)
    return _forward(x, kernel)


def _winograd_gradients(x, kernel, grad):
    if _is_split(x):
        split = P(sharding.DATA)
        back = jax.shard_map(_backward, in_specs=(split, P()), out_specs=split)
        summed = jax.shard_map(
            lambda x, grad: lax.psum(_kernel_gradient(x, grad), sharding.DATA), in_specs=split, out_specs=P()
        )
        return back(grad, kernel), summed(x, grad)
    return _backward(grad, kernel), _kernel_gradient(x, grad)


def _is_split(x: Array) -> bool:
    """Whether each device has rows of its own; inside `shard_map` a device's rows are all there is."""
    return jax.typeof(x).sharding.spec[:1] == (sharding.DATA,)


def _forward(x: Array, kernel: Array) -> Array:
    """The convolution of what one device holds."""
    taps = [[kernel[i, j] for j in range(3)] for i in range(3)]
    return _products(x, taps, lambda a, b: a @ b, kernel.shape[3])


def _backward(grad: Array, kernel: Array) -> Array:
    """The gradient of the input: the convolution with the kernel turned round, its channels exchanged."""
    taps = [[kernel[2 - i, 2 - j] for j in range(3)] for i in range(3)]
    # the matmul reads it transposed; a transposed copy costs more than the matmul
    return _products(grad, taps, lambda a, b: lax.dot_general(a, b, (((3,), (1,)), ((), ()))), kernel.shape[2])


def _products(x: Array, taps: Tiles, times: Callable, features: int) -> Array:
    spread = _on_both(taps, _on_taps)

    def chunk(x: Array) -> Array:
        products = [[times(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(_tiles(x), spread, strict=True)]
        result = _on_both(products, _to_pairs)
        joined = jnp.stack([jnp.stack(row, 3) for row in result], 2)  # [n, h / 2, 2, w / 2, 2, D]
        n, rows, _, columns, _, _ = joined.shape
        return joined.reshape(n, 2 * rows, 2 * columns, features)[:, : x.shape[1], : x.shape[2]]

    return _by_chunks(chunk, x).reshape(*x.shape[:-1], features)


def _kernel_gradient(x: Array, grad: Array) -> Array:
    """The gradient of the kernel, from what one device holds."""
    even = [(0, 0), *((0, side % 2) for side in x.shape[1:3]), (0, 0)]

    def chunk(x: Array, grad: Array) -> Tiles:
        grad = jnp.pad(grad, even)
        spread = _on_both([[grad[:, a::2, b::2] for b in range(2)] for a in range(2)], _from_pairs)
        sums = [
            [a.reshape(-1, a.shape[3]).T @ b.reshape(-1, b.shape[3]) for a, b in zip(*rows, strict=True)]
            for rows in zip(_tiles(x), spread, strict=True)
        ]
        return sums

    sums = jax.tree.map(lambda each: each.sum(0), _by_chunks(chunk, x, grad))
    return jnp.stack([jnp.stack(row) for row in _on_both(sums, _to_taps)])


def _by_chunks(function: Callable, *arrays: Array) -> Any:
    """`function` of a few rows at a time, so that its work stays in the cache; results stacked."""
    rows, height, width, _ = arrays[0].shape
    most = CACHED // (math.ceil(height / 2) * math.ceil(width / 2) * max(array.shape[-1] for array in arrays))
    # two chunks at least: without a loop XLA repeats what comes before in each of the sixteen
    chunk = next((size for size in range(min(most, rows // 2), 0, -1) if rows % size == 0), 1)
    pieces = [array.reshape(rows // chunk, chunk, *array.shape[1:]) for array in arrays]
    return lax.map(lambda pieces: function(*pieces), pieces)


def _tiles(x: Array) -> Tiles:
    """The 4x4 inputs of each 2x2 results, transformed; entry (i, j) has that of all of them."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    ends = [x.shape[1] - 3, x.shape[2] - 3]
    return _on_both([[x[:, a : a + ends[0] : 2, b : b + ends[1] : 2] for b in range(4)] for a in range(4)], _to_fours)


def _on_both(tiles: Tiles, change: Callable) -> Tiles:
    """A change of a column of arrays, on both sides: rows, then columns."""
    rows = [change([row[j] for row in tiles]) for j in range(len(tiles[0]))]
    return [change([row[i] for row in rows]) for i in range(len(rows[0]))]


def _to_fours(d):
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _to_pairs(m):
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _from_pairs(y):
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _on_taps(g):
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _to_taps(u):
    return [u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]]
