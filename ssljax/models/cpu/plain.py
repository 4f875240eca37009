"""XLA's own convolution, padded by half its kernel, and its gradients."""

import jax
from jax import lax

from ssljax.types import Array


def forward(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution of [B, H, W, C] with [k, k, C, D]."""
    half, layout = kernel.shape[0] // 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(half, half)] * 2, dimension_numbers=layout)


def backward(x: Array, kernel: Array, grad: Array, stride: int) -> Array:
    """The gradient of `x`, of which only the shape is read, from that of the results."""
    # a vjp would run the forward convolution too
    (found,) = jax.linear_transpose(lambda x: forward(x, kernel, stride), x)(grad)
    return found


def kernel_gradient(x: Array, kernel: Array, grad: Array, stride: int) -> Array:
    """The gradient of `kernel`, of which only the shape is read."""
    (found,) = jax.linear_transpose(lambda kernel: forward(x, kernel, stride), kernel)(grad)
    return found
