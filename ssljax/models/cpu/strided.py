"""3x3 and 1x1 convolutions of stride 2 on CPUs as matmuls, one for each tap of the kernel.

The functions are jitted so that equal layers are traced once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ssljax.models.cpu import chunks
from ssljax.types import Array

CACHED = 1 << 17  # numbers in one tap's inputs or results, of one piece


@functools.partial(jax.jit, static_argnums=2)
def forward(x: Array, kernel: Array, stride: int = 2) -> Array:
    """The convolution of float32[B, H, W, C] with [k, k, C, D], k = 3 padded with one zero, or k = 1."""
    del stride
    side, _, channels, features = kernel.shape
    if side == 1:
        return x[:, ::2, ::2] @ kernel[0, 0]

    def piece(x: Array) -> Array:
        return jnp.concatenate(_taps(x), -1) @ kernel.reshape(-1, features)

    return chunks.mapped(piece, _rows(x.shape[1] * x.shape[2] * channels // 4), x)


@functools.partial(jax.jit, static_argnums=3)
def backward(x: Array, kernel: Array, grad: Array, stride: int = 2) -> Array:
    """The gradient of `x` [B, 2 h, 2 w, C], of which only the shape is read, from that of the results [B, h, w, D]."""
    del x, stride
    side, _, channels, features = kernel.shape
    height, width = grad.shape[1:3]
    if side == 1:
        ends = (0, 1, 1)  # a zero after every row and column
        return lax.pad(_times(grad, kernel[0, 0]), jnp.zeros((), grad.dtype), ((0, 0, 0), ends, ends, (0, 0, 0)))
    # pairs (tap, shift of the result): an even row of the input is read by the middle tap alone, an odd one by the
    # last tap of its result and by the first of the next
    readers = (((1, 0),), ((0, 1), (2, 0)))

    def piece(grad: Array) -> Array:
        padded = jnp.pad(grad, [(0, 0), (0, 1), (0, 1), (0, 0)])

        def sums(rows: tuple, columns: tuple) -> Array:
            parts = [
                _times(padded[:, a : a + height, b : b + width], kernel[i, j]) for i, a in rows for j, b in columns
            ]
            return sum(parts[1:], parts[0])

        joined = jnp.stack([jnp.stack([sums(rows, columns) for columns in readers], 3) for rows in readers], 2)
        return joined.reshape(-1, 2 * height, 2 * width, channels)

    return chunks.mapped(piece, _rows(height * width * max(channels, features)), grad)


@functools.partial(jax.jit, static_argnums=3)
def kernel_gradient(x: Array, kernel: Array, grad: Array, stride: int = 2) -> Array:
    """The gradient of `kernel`, of which only the shape is read, from the inputs and the gradient of the results."""
    del stride
    channels, features = x.shape[3], grad.shape[3]
    if kernel.shape[0] == 1:
        return (x[:, ::2, ::2].reshape(-1, channels).T @ grad.reshape(-1, features))[None, None]

    def piece(x: Array, grad: Array) -> list[Array]:
        grad = grad.reshape(-1, features)
        return [tap.reshape(-1, channels).T @ grad for tap in _taps(x)]

    sums = chunks.summed(piece, _rows(x.shape[1] * x.shape[2] * channels // 4), x, grad)
    return jnp.stack(sums).reshape(3, 3, channels, features)


def _taps(x: Array) -> list[Array]:
    """The inputs that each tap of a 3x3 kernel reads, [n, H / 2, W / 2, C] each."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return [x[:, a : a + height : 2, b : b + width : 2] for a in range(3) for b in range(3)]


def _times(grad: Array, tap: Array) -> Array:
    """[n, h, w, D] times the transpose of [C, D]."""
    return lax.dot_general(grad, tap, (((3,), (1,)), ((), ())))


def _rows(numbers: int) -> int:
    return max(CACHED // numbers, 1)
