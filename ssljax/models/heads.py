"""Heads on an encoder's features: the linear layer and the MLPs that the methods project and predict with."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.from_linen import from_linen
from ssljax.models.norm import BatchNorm
from ssljax.types import Array, BadInputError, Encoder


class Dense(nn.Module):
    """A linear layer that starts as torch's: kernel and bias uniform in +-1/sqrt(inputs).

    Attributes:
        features: outputs.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; the parameters are float32.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., features]."""

        def uniform(key, shape):
            bound = x.shape[-1] ** -0.5
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        kernel = self.param("kernel", uniform, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", uniform, (self.features,)).astype(self.dtype)
            y += bias.reshape((1,) * (y.ndim - 1) + bias.shape)
        return y


class MLP(nn.Module):
    """The layers; the arguments are those of `mlp`."""

    features: tuple[int, ...]
    batch_norm: bool
    last_batch_norm: bool
    last_affine: bool
    bias: bool
    last_bias: bool
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[B, D] -> float32 [B, features[-1]]."""
        for i, features in enumerate(self.features):
            last = i == len(self.features) - 1
            x = Dense(features, self.last_bias if last else self.bias, self.dtype, name=f"dense{i + 1}")(x)
            if self.last_batch_norm if last else self.batch_norm:
                affine = self.last_affine or not last
                norm = BatchNorm(self.groups, dtype=self.dtype, use_scale=affine, use_bias=affine, name=f"bn{i + 1}")
                x = norm(x, train=train)
            x = x if last else nn.relu(x)
        return x.astype(jnp.float32)


def linear(features: int, *, bias: bool = True, dtype: Any = jnp.float32) -> Encoder:
    """One linear layer, MoCo v1's projector.

    Args:
        features: outputs.
        bias: whether it has a bias.
        dtype: dtype of the computation; parameters are float32.

    Returns:
        An `Encoder` from float [B, D] to float32 [B, features].

    Raises:
        BadInputError: fewer than one output.

    Reference: arXiv 1911.05722, section 3.3; initialised as torch's `nn.Linear`, which facebookresearch/moco uses.
    """
    return mlp((features,), last_bias=bias, dtype=dtype)


def mlp(
    features: Sequence[int],
    *,
    batch_norm: bool = False,
    last_batch_norm: bool = False,
    last_affine: bool = True,
    bias: bool = True,
    last_bias: bool = True,
    groups: int = 1,
    dtype: Any = jnp.float32,
) -> Encoder:
    """Linear layers with ReLU, and BatchNorm where asked, between them: dense, BN, ReLU, ..., dense, BN.

    MoCo v2 is `mlp((2048, 128))`; MoCo v3's projector on a ResNet is `mlp((4096, 256), batch_norm=True,
    last_batch_norm=True, last_affine=False, bias=False, last_bias=False)`.

    Args:
        features: outputs of each layer, at least one.
        batch_norm: normalise before each ReLU.
        last_batch_norm: normalise the output.
        last_affine: whether the output's BatchNorm has scale and bias.
        bias: whether the layers before a ReLU have a bias (one before a BatchNorm changes nothing but the count).
        last_bias: whether the last layer has one.
        groups: slices of the batch that BatchNorm treats apart in training.
        dtype: dtype of the computation; parameters and statistics are float32.

    Returns:
        An `Encoder` from float [B, D] to float32 [B, features[-1]].

    Raises:
        BadInputError: no layers, or a layer without outputs.

    Reference: arXiv 2003.04297, section 3; facebookresearch/moco-v3 `moco/builder.py`. Initialised as torch's
        `nn.Linear`.

    >>> head = mlp((8, 4), batch_norm=True, bias=False)
    >>> params, stats = head.init(jax.random.key(0), jnp.ones((2, 16)))
    >>> jax.tree.map(jnp.shape, params)
    {'bn1': {'bias': (8,), 'scale': (8,)}, 'dense1': {'kernel': (16, 8)}, 'dense2': {'bias': (4,), 'kernel': (8, 4)}}
    """
    if not features or min(features) < 1:
        raise BadInputError(f"features={tuple(features)}: give the outputs of each layer, such as (2048, 128).")
    return from_linen(MLP(tuple(features), batch_norm, last_batch_norm, last_affine, bias, last_bias, groups, dtype))
