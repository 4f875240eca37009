"""BERT's parts as linen modules: embeddings, one encoder layer, and the norms, dense layers and dropout they share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssljax.types import Array, BadInputError

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # `jax.nn.dot_product_attention`'s


@dataclasses.dataclass(frozen=True)
class BertShape:
    """The sizes and rates of a BERT; the defaults are base, uncased.

    Attributes:
        vocab_size: number of words, V.
        hidden: width of the residual stream, H.
        layers: number of encoder layers.
        heads: number of attention heads; divides `hidden`.
        intermediate: width inside the feed-forward blocks.
        positions: length of the position table: the longest sequence.
        segments: rows of the segment table.
        dropout: rate on embeddings and on each block's output.
        attention_dropout: rate on attention's probabilities.
        activation: `"gelu_tanh"` (google-research/bert since 2019) or `"gelu"`, by erf (the release, Hugging Face).
        eps: added to LayerNorm's variances.
        initial_std: standard deviation of the initial weights, before the normal is cut at two of them, as official.
        initial_positions: `"normal"`, as official, or `"sinusoidal"`: the position table starts as the waves of
            arXiv 1706.03762 with root mean square `initial_std` and is trained from there, so that a small model need
            not find out first which positions are neighbours.
    """

    vocab_size: int = 30522
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    segments: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu_tanh"
    eps: float = 1e-12
    initial_std: float = 0.02
    initial_positions: str = "normal"


class Dense(nn.Module):
    """A linear layer that starts as BERT's.

    Attributes:
        features: outputs.
        dtype: dtype of the computation and the output; the parameters are float32.
        std: standard deviation of the initial kernel.
    """

    features: int
    dtype: Any = jnp.float32
    std: float = 0.02

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., features]."""
        kernel = self.param("kernel", nn.initializers.truncated_normal(self.std), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + wide(bias.astype(self.dtype), y.ndim)


class LayerNorm(nn.Module):
    """Layer normalisation with float32 statistics and parameters.

    Attributes:
        eps: added to the variance.
        dtype: dtype of the output.
    """

    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] -> [..., D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        off = x - x.mean(-1, keepdims=True)
        y = off * jax.lax.rsqrt(jnp.square(off).mean(-1, keepdims=True) + self.eps)
        return (y * wide(scale, y.ndim) + wide(bias, y.ndim)).astype(self.dtype)


class Table(nn.Module):
    """A table of `rows` embeddings [rows, features]."""

    rows: int
    features: int
    std: float = 0.02
    waves: bool = False

    @nn.compact
    def __call__(self) -> Array:
        """The whole table."""
        initial = waves if self.waves else nn.initializers.truncated_normal
        return self.param("embedding", initial(self.std), (self.rows, self.features))


def waves(std: float) -> Callable[..., Array]:
    """An initialiser of position tables [P, H]: sines and cosines of the position, root mean square `std`.

    Reference: arXiv 1706.03762, section 3.5, all sines before all cosines.
    """

    def initial(key, shape, dtype=jnp.float32):
        del key
        rows, features = shape
        rates = 10_000.0 ** (-jnp.arange(0, features, 2) / features)
        angles = jnp.arange(rows)[:, None] * rates[None]
        table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[:, :features]
        return (table * (std * 2**0.5)).astype(dtype)

    return initial


class Embeddings(nn.Module):
    """Word + position + segment, LayerNorm, dropout."""

    shape: BertShape
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Array, segments: Array, *, train: bool) -> Array:
        """int32[B, L] twice -> [B, L, H]."""
        s = self.shape
        words = Table(s.vocab_size, s.hidden, s.initial_std, name="word")()
        places = Table(s.positions, s.hidden, s.initial_std, s.initial_positions == "sinusoidal", name="position")()
        kinds = Table(s.segments, s.hidden, s.initial_std, name="segment")()
        # so few rows that a product is faster than adding every position's gradient into one of them
        kind = jnp.matmul(jax.nn.one_hot(segments, s.segments), kinds, precision="highest")
        x = rows_of(words, tokens) + places[None, : tokens.shape[1]] + kind
        return drop(self, LayerNorm(s.eps, self.dtype, name="norm")(x), s.dropout, train)


class Attention(nn.Module):
    """Self-attention of `shape.heads` heads over the first `lengths` positions, without residual."""

    shape: BertShape
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, lengths: Array, *, train: bool) -> Array:
        """[B, L, H] and int32[B] -> [B, L, H]; `intermediates` gets the probabilities if the caller collects them."""
        B, L, H = x.shape
        rate = self.shape.attention_dropout if train else 0.0
        std = self.shape.initial_std
        heads = (B, L, self.shape.heads, H // self.shape.heads)
        dense = functools.partial(Dense, H, self.dtype, std)
        query, key, value = (dense(name=name)(x).reshape(heads) for name in ("query", "key", "value"))
        if rate or self.is_mutable_collection("intermediates"):
            weights = attention_weights(query, key, lengths)
            self.sow("intermediates", "weights", weights)
            weights = drop(self, weights, rate, train).astype(self.dtype)
            mixed = jnp.einsum("bnts,bsnd->btnd", weights, value)
        else:
            mixed = jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths)
        return dense(name="output")(mixed.reshape(B, L, H))


class Layer(nn.Module):
    """One post-LayerNorm encoder layer: attention, then two dense layers with a GELU between."""

    shape: BertShape
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, lengths: Array, *, train: bool) -> Array:
        """[B, L, H] and int32[B] -> [B, L, H]."""
        s = self.shape
        y = Attention(s, self.dtype, name="attention")(x, lengths, train=train)
        x = LayerNorm(s.eps, self.dtype, name="attention_norm")(_add(x, drop(self, y, s.dropout, train)))
        y = gelu(Dense(s.intermediate, self.dtype, s.initial_std, name="intermediate")(x), s.activation)
        y = Dense(s.hidden, self.dtype, s.initial_std, name="output")(y)
        return LayerNorm(s.eps, self.dtype, name="output_norm")(_add(x, drop(self, y, s.dropout, train)))


def attention_weights(query: Array, key: Array, lengths: Array) -> Array:
    """Softmax in float32 over the first `lengths` keys: [B, L, n, d] twice and int32[B] -> float32 [B, n, L, L]."""
    logits = einsum32("btnd,bsnd->bnts", query, key) * query.shape[-1] ** -0.5
    real = jnp.arange(key.shape[1])[None] < lengths[:, None]
    return jax.nn.softmax(jnp.where(real[:, None, None], logits, MASKED), axis=-1)


def einsum32(subscripts: str, x: Array, y: Array) -> Array:
    """An einsum with a float32 result whose gradients are products in the operands' dtype too."""
    # without the preset the cotangent is float32, and half of the backward pass leaves the bfloat16 units
    precision = jax.lax.DotAlgorithmPreset.BF16_BF16_F32 if x.dtype == jnp.bfloat16 else None
    return jnp.einsum(subscripts, x, y, precision=precision, preferred_element_type=jnp.float32)


def gelu(x: Array, activation: str) -> Array:
    """GELU, by tanh for `"gelu_tanh"`, by erf for `"gelu"`."""
    return jax.nn.gelu(x, approximate=activation == "gelu_tanh")


def rows_of(table: Array, ids: Array) -> Array:
    """Rows `ids` int[...] of `table` [V, H], laid out as `ids`; NaN where an id is outside the table."""
    return jnp.asarray(table).at[ids].get(mode="fill", out_sharding=_laid_out(ids, None))


def dropout(key: Array, x: Array, rate: float) -> Array:
    """Zero a share `rate` of `x` and scale up the rest; the same values on any number of devices."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape, out_sharding=_laid_out(x))
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def wide(values: Array, ndim: int) -> Array:
    """[C] -> [1, ..., 1, C]."""
    return values.reshape((1,) * (ndim - 1) + values.shape)


def drop(module: nn.Module, x: Array, rate: float, train: bool) -> Array:
    """`dropout` by the module's rng, in training only.

    Raises:
        BadInputError: there is no rng and something to drop.
    """
    if not train or rate == 0:
        return x
    if not module.has_rng("dropout"):
        raise BadInputError(f"dropout={rate}: training needs a key; give `key`, or set the rates to 0.")
    return dropout(module.make_rng("dropout"), x, rate)


def _add(x: Array, y: Array) -> Array:
    # LayerNorm reads float32, so the sum need not be rounded first
    return x.astype(jnp.float32) + y.astype(jnp.float32)


def _laid_out(x: Array, *more: None) -> NamedSharding | None:
    """The sharding of `x`, with axes more; None without a mesh."""
    sharding = jax.typeof(x).sharding
    return None if sharding.mesh.empty else NamedSharding(sharding.mesh, P(*sharding.spec, *more))
