"""Convolutions as matmuls on CPUs, where some of XLA's are slow; the only place that chooses between the two."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.models.cpu import strided, winograd
from ssljax.types import Array

LEAST_CHANNELS, LEAST_SIDE = 64, 4  # smaller arrays, or sides that the tiles do not divide, gain less
MODULES = {(3, 1): winograd, (3, 2): strided, (1, 2): strided}  # by the side of the kernel and the stride


def conv_general_dilated(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv`; on CPUs, `convolve` where it is faster."""
    side, stride = kernel.shape[0], next(iter(strides))
    usual = x.ndim == 4 and kernel.shape[1] == side and tuple(strides) == (stride, stride) and (side, stride) in MODULES
    usual &= list(padding) == [(side // 2, side // 2)] * 2
    usual &= min(kernel.shape[2:]) >= LEAST_CHANNELS and x.dtype == kernel.dtype == jnp.float32
    usual &= all(length >= LEAST_SIDE and length % 2 == 0 for length in x.shape[1:3])
    dilations = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    usual &= dilations <= {1} and options.get("feature_group_count", 1) == 1 and options.get("precision") is None
    # elsewhere not even the custom gradient, which has no forward mode
    if usual and jax.default_backend() == "cpu":
        return convolve(x, kernel, stride)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """A convolution padded by half its kernel: matmuls on CPUs, XLA's own convolution elsewhere.

    Args:
        x: float32[B, H, W, C], H and W even if the stride is 2.
        kernel: float32[k, k, C, D].
        stride: 1 or 2; (k, stride) is one of `MODULES`.

    Returns:
        float32[B, H / stride, W / stride, D], within 1e-5 of XLA's relative to the largest value, as are the
        gradients. Only reverse mode is defined.
    """
    return lax.platform_dependent(x, kernel, cpu=_bound(_fast, kernel, stride), default=_bound(_plain, kernel, stride))


def _forward(x, kernel, stride):
    return convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, grad):
    _, kernel = residuals
    fast, plain = (_bound(function, kernel, stride) for function in (_fast_gradients, _plain_gradients))
    return lax.platform_dependent(*residuals, grad, cpu=fast, default=plain)


convolve.defvjp(_forward, _backward)


def _bound(function, kernel, stride):
    return functools.partial(function, stride, MODULES[kernel.shape[0], stride])


def _plain(stride, module, x, kernel):
    del module
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _plain_gradients(stride, module, x, kernel, grad):
    # a vjp would run the forward convolution too
    (of_x,) = jax.linear_transpose(lambda x: _plain(stride, module, x, kernel), x)(grad)
    (of_kernel,) = jax.linear_transpose(lambda kernel: _plain(stride, module, x, kernel), kernel)(grad)
    return of_x, of_kernel


def _fast(stride, module, x, kernel):
    del stride
    if _is_split(x):
        return jax.shard_map(module.forward, in_specs=(P(sharding.DATA), P()), out_specs=P(sharding.DATA))(x, kernel)
    return module.forward(x, kernel)


def _fast_gradients(stride, module, x, kernel, grad):
    del stride
    side = kernel.shape[0]

    def summed(x, grad):
        return lax.psum(module.kernel_gradient(x, grad, side), sharding.DATA)

    if _is_split(x):
        split = P(sharding.DATA)
        back = jax.shard_map(module.backward, in_specs=(split, P()), out_specs=split)
        return back(grad, kernel), jax.shard_map(summed, in_specs=split, out_specs=P())(x, grad)
    return module.backward(grad, kernel), module.kernel_gradient(x, grad, side)


def _is_split(x: Array) -> bool:
    """Whether each device has rows of its own; inside `shard_map` a device's rows are all there is."""
    return jax.typeof(x).sharding.spec[:1] == (sharding.DATA,)
