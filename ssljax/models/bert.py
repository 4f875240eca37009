"""BERT's encoder and its heads, for pre-training and for fine-tuning."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.bert_layers import (
    BertShape,
    Dense,
    Embeddings,
    Layer,
    LayerNorm,
    drop,
    einsum32,
    gelu,
    wide,
)
from ssljax.models.from_linen import from_linen
from ssljax.types import Array, BadInputError, Encoder, PyTree

ACTIVATIONS = ("gelu_tanh", "gelu")


def _size(layers: int, hidden: int) -> BertShape:
    return BertShape(hidden=hidden, layers=layers, heads=hidden // 64, intermediate=4 * hidden)


# arXiv 1810.04805, section 3, and the miniatures of arXiv 1908.08962, table 1
SIZES = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "small": _size(4, 512),
    "medium": _size(8, 512),
    "base": _size(12, 768),
    "large": _size(24, 1024),
}


def bert(shape: BertShape, *, dtype: Any = jnp.float32, remat: bool = False, scan: bool = False) -> Encoder:
    """BERT's encoder.

    Args:
        shape: its sizes and rates.
        dtype: dtype of the computation; parameters, LayerNorm's statistics, softmax and outputs are float32.
        remat: recompute each layer in the backward pass instead of keeping what is inside it.
        scan: compile one layer and loop over it. Neither option changes a value or the parameters' structure.

    Returns:
        An `Encoder` of tokens int32[B, L], segments int32[B, L] and lengths int32[B] (real tokens; those beyond are
        not attended to). The outputs are `{"tokens": float32 [B, L, H], "pooled": float32 [B, H]}`: the last layer,
        and tanh of a dense layer on its first position. `params` has one subtree per layer, `layers/0` and so on.
        `key` is needed in training only, and only with a dropout rate above 0.

    Raises:
        BadInputError: the heads do not divide the width, or the activation or the initial positions are unknown; from
            `init` and `apply`, a sequence is longer than the position table, or a key is missing.

    Reference: arXiv 1810.04805, section 3; google-research/bert `modeling.py`.

    Differs from the paper: GELU is by tanh unless `shape` says erf, as in the official code since 2019.

    >>> encoder = bert(BertShape(vocab_size=50, hidden=8, layers=2, heads=2, intermediate=16, positions=6))
    >>> tokens = jnp.ones((3, 5), jnp.int32)
    >>> inputs = (tokens, jnp.zeros_like(tokens), jnp.full((3,), 4))
    >>> params, _ = encoder.init(jax.random.key(0), *inputs)
    >>> outputs, _ = encoder.apply(params, {}, *inputs, train=False)
    >>> outputs["tokens"].shape, outputs["pooled"].shape, sorted(params["layers"])
    ((3, 5, 8), (3, 8), ['0', '1'])
    """
    _check_shape(shape)
    embeddings, layer, pooler = Embeddings(shape, dtype), Layer(shape, dtype), Dense(shape.hidden)

    def init(key, tokens, segments, lengths):
        _check_inputs(shape, tokens, segments, lengths)
        return _draw(shape, key), {}

    def apply(params, stats, tokens, segments, lengths, *, train, key=None):
        _check_inputs(shape, tokens, segments, lengths)
        keys = None if key is None or not train else jax.random.split(key, shape.layers + 1)

        def one(x, params_and_key):
            return _run(layer, params_and_key[0], x, lengths, train=train, key=params_and_key[1]), None

        first = None if keys is None else keys[0]
        x = _run(embeddings, params["embeddings"], tokens, segments, train=train, key=first)
        x = _through(jax.checkpoint(one) if remat else one, x, params["layers"], keys, scan=scan)
        x = x.astype(jnp.float32)
        pooled = jnp.tanh(_run(pooler, params["pooler"], x[:, 0]))
        return {"tokens": x, "pooled": pooled}, stats

    return Encoder(init, apply)


def mlm_head(shape: BertShape, *, dtype: Any = jnp.float32) -> Encoder:
    """The masked language model's head, tied to the word embeddings.

    Args:
        shape: shape of the encoder.
        dtype: dtype of the computation; parameters and logits are float32.

    Returns:
        An `Encoder` from hidden [B, P, H], the last layer at the masked positions, and the table [V, H] of
        `word_table` to logits float32 [B, P, V].

    Reference: arXiv 1810.04805, section 3.1; google-research/bert `run_pretraining.py`, `get_masked_lm_output`.
    """
    _check_shape(shape)
    return from_linen(MLMHead(shape, dtype))


def nsp_head(shape: BertShape) -> Encoder:
    """Next sentence prediction: an `Encoder` from pooled [B, H] to logits float32 [B, 2]; class 1 is a random B.

    Reference: google-research/bert `run_pretraining.py`, `get_next_sentence_output`.
    """
    _check_shape(shape)
    return from_linen(Dense(2))


def classifier(outputs: int, dropout: float = 0.1) -> Encoder:
    """A fine-tuning head: an `Encoder` from pooled [B, H] through dropout to logits float32 [B, outputs].

    Reference: google-research/bert `run_classifier.py`, `create_model`.
    """
    if outputs < 1:
        raise BadInputError(f"outputs={outputs}: give at least 1.")
    return from_linen(Classifier(outputs, dropout))


def span_head() -> Encoder:
    """A question-answering head: an `Encoder` from tokens [B, L, H] to float32 [B, L, 2], start and end of the answer.

    Reference: google-research/bert `run_squad.py`, `create_model`.
    """
    return from_linen(Dense(2))


def word_table(params: PyTree) -> Array:
    """The word embeddings [V, H] in an encoder's parameters, which the MLM head shares."""
    return params["embeddings"]["word"]["embedding"]


def attention_maps(params: PyTree, shape: BertShape, tokens: Array, segments: Array, lengths: Array) -> Array:
    """What each position attends to, without dropout.

    Args:
        params: parameters of the encoder.
        shape: shape of the encoder.
        tokens: int32[B, L].
        segments: int32[B, L].
        lengths: int32[B].

    Returns:
        float32 [layers, B, heads, L, L]; the last axis sums to 1 and is 0 beyond `lengths`.
    """
    _check_inputs(shape, tokens, segments, lengths)
    embeddings, layer = Embeddings(shape, jnp.float32), Layer(shape, jnp.float32)
    x = _run(embeddings, params["embeddings"], tokens, segments, train=False)
    maps = []
    for i in range(shape.layers):
        x, found = _run(layer, params["layers"][str(i)], x, lengths, train=False, mutable=["intermediates"])
        maps.append(found["intermediates"]["attention"]["weights"][0])
    return jnp.stack(maps)


class MLMHead(nn.Module):
    """Dense, GELU, LayerNorm, the transposed table, a bias."""

    shape: BertShape
    dtype: Any

    @nn.compact
    def __call__(self, hidden: Array, table: Array) -> Array:
        """[B, P, H] and [V, H] -> float32 [B, P, V]."""
        x = gelu(
            Dense(self.shape.hidden, self.dtype, self.shape.initial_std, name="dense")(hidden), self.shape.activation
        )
        x = LayerNorm(self.shape.eps, self.dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.shape.vocab_size,))
        logits = einsum32("bph,vh->bpv", x, table.astype(self.dtype))
        return logits + wide(bias, logits.ndim)


class Classifier(nn.Module):
    """Dropout and a linear layer."""

    outputs: int
    dropout: float

    @nn.compact
    def __call__(self, pooled: Array, *, train: bool) -> Array:
        """[B, H] -> [B, outputs]."""
        return Dense(self.outputs, name="dense")(drop(self, pooled, self.dropout, train))


@functools.partial(jax.jit, static_argnums=0)
def _draw(shape: BertShape, key: Array) -> PyTree:
    """Initial parameters; they depend on neither dtype nor inputs."""
    places, layers, pooler = jax.random.split(key, 3)
    ids, x = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, shape.hidden))
    embeddings = Embeddings(shape, jnp.float32).init(places, ids, ids, train=False)["params"]
    layer = functools.partial(Layer(shape, jnp.float32).init, x=x, lengths=ids[0], train=False)
    stacked = jax.vmap(lambda key: layer(key)["params"])(jax.random.split(layers, shape.layers))
    unstacked = {str(i): jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(shape.layers)}
    initial = nn.initializers.truncated_normal(shape.initial_std)
    kernel = {"kernel": initial(pooler, (shape.hidden, shape.hidden)), "bias": jnp.zeros((shape.hidden,))}
    return {"embeddings": embeddings, "layers": unstacked, "pooler": kernel}


def _through(layer, x: Array, params: PyTree, keys: Array | None, *, scan: bool) -> Array:
    """`x` through every layer, key i + 1 for layer i."""
    ordered = [params[str(i)] for i in range(len(params))]
    if scan:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
        return jax.lax.scan(layer, x, (stacked, None if keys is None else keys[1:]))[0]
    for i, layer_params in enumerate(ordered):
        x, _ = layer(x, (layer_params, None if keys is None else keys[i + 1]))
    return x


def _run(module: nn.Module, params: PyTree, *inputs: Array, key: Array | None = None, **options: Any) -> Any:
    return module.apply({"params": params}, *inputs, rngs={} if key is None else {"dropout": key}, **options)


def _check_shape(shape: BertShape) -> None:
    if shape.heads < 1 or shape.hidden % shape.heads:
        raise BadInputError(f"heads={shape.heads} does not divide hidden={shape.hidden}; choose one that does.")
    if shape.layers < 1:
        raise BadInputError(f"layers={shape.layers}: give at least 1.")
    if shape.activation not in ACTIVATIONS:
        raise BadInputError(f"activation={shape.activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}.")
    if shape.initial_positions not in ("normal", "sinusoidal"):
        found = f"initial_positions={shape.initial_positions!r}"
        raise BadInputError(f"{found} is unknown; choose one of normal, sinusoidal.")


def _check_inputs(shape: BertShape, tokens: Array, segments: Array, lengths: Array) -> None:
    if tokens.ndim != 2 or segments.shape != tokens.shape or lengths.shape != tokens.shape[:1]:
        found = f"tokens {tokens.shape}, segments {segments.shape}, lengths {lengths.shape}"
        raise BadInputError(f"{found}: give tokens [B, L], segments [B, L] and lengths [B].")
    if tokens.shape[1] > shape.positions:
        raise BadInputError(
            f"a sequence of {tokens.shape[1]} tokens is longer than the position table, positions={shape.positions}; "
            "shorten it or make the table longer."
        )
