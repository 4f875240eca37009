"""3x3 convolutions of small pictures on CPUs: one matmul of the nine inputs that each result reads.

The functions are jitted so that equal layers are traced once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ssljax.models.cpu import chunks, plain
from ssljax.types import Array

FEW = 16  # results a picture up to which XLA's own forward and backward convolutions are slow
CACHED = 1 << 18  # numbers in the inputs read by the results of one piece


@functools.partial(jax.jit, static_argnums=2)
def forward(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution of float32[B, H, W, C] with [3, 3, C, D], padded with one zero; any H and W."""
    if _results(x, stride) > FEW:
        return plain.forward(x, kernel, stride)
    return _patches(x, stride) @ kernel.reshape(-1, kernel.shape[3])


@functools.partial(jax.jit, static_argnums=3)
def backward(x: Array, kernel: Array, grad: Array, stride: int) -> Array:
    """The gradient of `x`, of which only the shape is read, from that of the results."""
    if _results(x, stride) > FEW:
        return plain.backward(x, kernel, grad, stride)
    of_patches = lax.dot_general(grad, kernel.reshape(-1, kernel.shape[3]), (((3,), (1,)), ((), ())))
    (found,) = jax.linear_transpose(lambda x: _patches(x, stride), x)(of_patches)
    return found


@functools.partial(jax.jit, static_argnums=3)
def kernel_gradient(x: Array, kernel: Array, grad: Array, stride: int) -> Array:
    """The gradient of `kernel`, of which only the shape is read."""

    def piece(x: Array, grad: Array) -> Array:
        patches = _patches(x, stride)
        return patches.reshape(-1, patches.shape[3]).T @ grad.reshape(-1, grad.shape[3])

    rows = max(CACHED // (_results(x, stride) * 9 * x.shape[3]), 1)
    return chunks.summed(piece, rows, x, grad).reshape(kernel.shape)


def _results(x: Array, stride: int) -> int:
    return -(-x.shape[1] // stride) * -(-x.shape[2] // stride)


def _patches(x: Array, stride: int) -> Array:
    """[n, H, W, C] -> the inputs that each result reads, [n, H / stride, W / stride, 9 C], rounded up."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    taps = [padded[:, a : a + height : stride, b : b + width : stride] for a in range(3) for b in range(3)]
    return jnp.concatenate(taps, -1)
