"""Convolutions as matmuls on CPUs, where some of XLA's are slow; the only place that chooses between the two."""

import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.models.cpu import first, patches, plain, strided, winograd
from ssljax.types import Array

LEAST_CHANNELS, LEAST_SIDE = 64, 4  # smaller arrays, or sides that the tiles do not divide, gain less
FEWEST = 16  # channels in and out of a convolution by patches
LARGE = {(3, 1): winograd, (3, 2): strided, (1, 2): strided}  # by the side of the kernel and the stride


def conv_general_dilated(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv`; on CPUs, `convolve` where it is faster."""
    side, stride = kernel.shape[0], next(iter(strides))
    usual = x.ndim == 4 and kernel.shape[1] == side and tuple(strides) == (stride, stride)
    usual = usual and list(padding) == [(side // 2, side // 2)] * 2 and x.dtype == kernel.dtype == jnp.float32
    dilations = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    usual = usual and dilations <= {1} and options.get("feature_group_count", 1) == 1
    module = choose(x, kernel, stride) if usual and options.get("precision") is None else None
    # elsewhere not even the custom gradient, which has no forward mode
    if module and jax.default_backend() == "cpu":
        return convolve(x, kernel, stride, module)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def choose(x: Array, kernel: Array, stride: int) -> ModuleType | None:
    """The fastest module for a convolution of [B, H, W, C] with [k, k, C, D] on a CPU; None for XLA's own."""
    side, least = kernel.shape[0], min(kernel.shape[2:])
    even = all(length % 2 == 0 for length in x.shape[1:3])
    if (side, stride) in LARGE and least >= LEAST_CHANNELS and even and min(x.shape[1:3]) >= LEAST_SIDE:
        return LARGE[side, stride]
    if side == 3 and stride in (1, 2) and least >= FEWEST:
        return patches
    return first if (side, stride) == (7, 2) and even else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Array, kernel: Array, stride: int, module: ModuleType) -> Array:
    """A convolution padded by half its kernel: matmuls on CPUs, XLA's own convolution elsewhere.

    Args:
        x: float32[B, H, W, C].
        kernel: float32[k, k, C, D].
        stride: 1 or 2.
        module: one of those that `choose` gives; `winograd` and `patches` take any H and W, others even ones.

    Returns:
        float32[B, H / stride, W / stride, D], rounded up, within 1e-5 of XLA's relative to the largest value, as are
        the gradients. Only reverse mode is defined.
    """
    fast = functools.partial(_fast, stride=stride, module=module)
    return lax.platform_dependent(x, kernel, cpu=fast, default=functools.partial(plain.forward, stride=stride))


def _forward(x, kernel, stride, module):
    return convolve(x, kernel, stride, module), (x, kernel)


def _backward(stride, module, residuals, grad):
    fast = functools.partial(_fast_gradients, stride=stride, module=module)
    return lax.platform_dependent(*residuals, grad, cpu=fast, default=functools.partial(_gradients, plain, stride))


convolve.defvjp(_forward, _backward)


def _fast(x, kernel, stride, module):
    def forward(x, kernel):
        return module.forward(x, kernel, stride)

    if _is_split(x):
        return jax.shard_map(forward, in_specs=(P(sharding.DATA), P()), out_specs=P(sharding.DATA))(x, kernel)
    return forward(x, kernel)


def _fast_gradients(x, kernel, grad, stride, module):
    gradients = functools.partial(_gradients, module, stride)

    def summed(x, kernel, grad):
        of_x, of_kernel = gradients(x, kernel, grad)
        return of_x, lax.psum(of_kernel, sharding.DATA)

    if _is_split(x):
        split = P(sharding.DATA)
        return jax.shard_map(summed, in_specs=(split, P(), split), out_specs=(split, P()))(x, kernel, grad)
    return gradients(x, kernel, grad)


def _gradients(module, stride, x, kernel, grad):
    return module.backward(x, kernel, grad, stride), module.kernel_gradient(x, kernel, grad, stride)


def _is_split(x: Array) -> bool:
    """Whether each device has rows of its own; inside `shard_map` a device's rows are all there is."""
    return jax.typeof(x).sharding.spec[:1] == (sharding.DATA,)
