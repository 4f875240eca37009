"""A ResNet's first convolution, 7x7 of stride 2, on CPUs: the gradient of its kernel as matmuls, a row at a time.

XLA's takes three to ten times as long. The functions are jitted so that equal layers are traced once.
"""

import functools

import jax
import jax.numpy as jnp

from ssljax.models.cpu import chunks, plain
from ssljax.types import Array

CACHED = 1 << 18  # numbers in the inputs read by one row of the kernel, of one piece

forward, backward = plain.forward, plain.backward


@functools.partial(jax.jit, static_argnums=3)
def kernel_gradient(x: Array, kernel: Array, grad: Array, stride: int) -> Array:
    """The gradient of `kernel`, of which only the shape [7, 7, C, D] is read; H and W are even."""
    height, width, channels = x.shape[1:]

    def piece(x: Array, grad: Array) -> list[Array]:
        # two neighbouring columns count as one, so that stride 2 is stride 1 and a row of the kernel four columns
        padded = jnp.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)])
        pairs = padded.reshape(-1, height + 6, width // 2 + 3, 2 * channels)
        rows = jnp.concatenate([pairs[:, :, j : j + width // 2] for j in range(4)], -1)
        grad = grad.reshape(-1, grad.shape[3])
        return [rows[:, i : i + height : stride].reshape(-1, 8 * channels).T @ grad for i in range(7)]

    sums = chunks.summed(piece, max(CACHED // (height * width * 4 * channels), 1), x, grad)
    return jnp.stack(sums).reshape(7, 8, channels, -1)[:, :7]
