"""The parts of fine-tuning: its numbers, its batches, one update and the outputs of a whole set."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax import optim, sharding
from ssljax.data import order
from ssljax.evals import features
from ssljax.losses.masked import cross_entropy
from ssljax.types import Array, BadInputError, Encoder, PyTree

Kind = Literal["classification", "regression", "span"]
Data = dict[str, np.ndarray]

INPUTS = ("tokens", "segments", "lengths")
LADDER = (16, 32, 64, 96, 128, 192, 256, 384, 512)
POOL = 50  # batches whose rows are sorted together
NOWHERE = -1e9  # the score of a span's end beyond the sequence


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """The numbers of fine-tuning; the defaults are those of the official MRPC command.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows of one step over all devices.
        learning_rate: base learning rate, the target of the warm-up.
        warmup: share of the steps that warm up; the linear decay to 0 counts from the first step.
        weight_decay: weight decay, on all parameters except biases and LayerNorms.
        seeds: number of runs of `finetune_seeds`.
        by_length: group rows of similar length into batches, which is faster.
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    seeds: int = 5
    by_length: bool = False

    def __post_init__(self):
        if min(self.epochs, self.batch_size, self.seeds) < 1 or not self.learning_rate > 0:
            raise BadInputError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, seeds={self.seeds}, "
                f"learning_rate={self.learning_rate}: give all of them above 0."
            )
        if not 0 <= self.warmup < 1:
            raise BadInputError(f"warmup={self.warmup}: give a share of the steps, at least 0 and below 1.")


def predict(
    encoder: Encoder, head: Encoder, params: PyTree, data: Data, *, kind: Kind, batch_size: int = 64
) -> np.ndarray:
    """The head's outputs without dropout.

    Args:
        encoder: as in `finetune`.
        head: as in `finetune`.
        params: `{"encoder", "head"}`.
        data: tokens, segments int32[N, L] and lengths int32[N].
        kind: as in `finetune`.
        batch_size: rows of one call over all devices; rounded up to a multiple of the devices.

    Returns:
        float32 [N, C], or [N, L, 2] with -1e9 beyond a row's length.
    """
    # rows of like length together; each goes back to its place
    places, found = np.argsort(-data["lengths"], kind="stable"), None
    for start in range(0, len(places), batch_size):
        rows = places[start : start + batch_size]
        outputs = np.asarray(_outputs(params, _batch(data, rows, batch_size), encoder, head, kind))[: len(rows)]
        if found is None:
            shape = (data["tokens"].shape[1], 2) if kind == "span" else outputs.shape[1:]
            found = np.full((len(places), *shape), NOWHERE, np.float32)
        if kind == "span":
            found[rows, : outputs.shape[1]] = outputs
        else:
            found[rows] = outputs
    assert found is not None
    return found


def _apply(encoder, head, kind: Kind, params, batch, *, train: bool, key=None) -> Array:
    keys = (None, None) if key is None else jax.random.split(key)
    inputs = [batch[name] for name in INPUTS]
    found, _ = encoder.apply(params["encoder"], {}, *inputs, train=train, key=keys[0])
    read = found["tokens"] if kind == "span" else found["pooled"]
    outputs, _ = head.apply(params["head"], {}, read, train=train, key=keys[1])
    outputs = outputs.astype(jnp.float32)
    if kind == "span":
        real = jnp.arange(outputs.shape[1])[None] < batch["lengths"][:, None]
        outputs = jnp.where(real[:, :, None], outputs, NOWHERE)
    return outputs


def _loss(kind: Kind, outputs: Array, label: Array, weight: Array) -> Array:
    if kind == "classification":
        return cross_entropy(outputs, label, weight)
    if kind == "span":
        start, end = (cross_entropy(outputs[:, :, side], label[:, side], weight) for side in (0, 1))
        return (start + end) / 2
    return jnp.sum(weight * jnp.square(outputs[:, 0] - label)) / jnp.sum(weight)


def _optimizer(config: FinetuneConfig, total: int) -> optim.Optimizer:
    rate = optim.linear_with_warmup(config.learning_rate, total, int(config.warmup * total))
    return optim.bert_adamw(rate, weight_decay=config.weight_decay)


def begin(params: PyTree, key: Array, encoder, head, kind, config, total):
    """A copy of the encoder's parameters with new ones of the head, on every device, and the optimiser's state."""
    shape = read_shape(encoder, params, kind)
    head_params, _ = head.init(key, jnp.zeros(shape.shape, shape.dtype))
    params = _replicated_copy({"encoder": params, "head": head_params}, sharding.replicated_sharding())
    return params, _optimizer(config, total).init(params)


def _replicated_copy(params: PyTree, everywhere) -> PyTree:
    # copies, because the steps donate them
    if everywhere is None:
        return jax.tree.map(jnp.array, params)
    return jax.tree.map(lambda leaf: jnp.copy(jax.device_put(leaf, everywhere)), params)


def read_shape(encoder: Encoder, params: PyTree, kind: Kind, length: int = 4) -> jax.ShapeDtypeStruct:
    """What the head reads of a sequence of `length` tokens: [1, H], or [1, length, H] for "span"."""
    tokens = jnp.zeros((1, length), jnp.int32)
    inputs = (tokens, tokens, jnp.ones(1, jnp.int32))
    found, _ = jax.eval_shape(lambda params: encoder.apply(params, {}, *inputs, train=False), params)
    read = found["tokens"] if kind == "span" else found["pooled"]
    return jax.ShapeDtypeStruct(read.shape, read.dtype)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7), donate_argnums=0)
def step(state: PyTree, batch: dict[str, Array], key: Array, encoder, head, kind, config, total):
    """One update; `state`, made by `begin` or this function, is donated. Returns the next state and the loss."""
    params, opt_state = state

    def loss_fn(params):
        outputs = _apply(encoder, head, kind, params, batch, train=True, key=key)
        return _loss(kind, outputs, batch["label"], batch["weight"])

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = _optimizer(config, total).update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _outputs(params, batch, encoder, head, kind):
    return sharding.gather(_apply(encoder, head, kind, params, batch, train=False))


def train_batches(train: Data, config: FinetuneConfig, seed: int) -> Iterator[dict[str, Array]]:
    """Every row once in each epoch, in an order of the seed's; the weight is 0 for rows that only fill a batch."""
    count, size = len(train["label"]), config.batch_size
    for epoch in range(config.epochs):
        rows = order.permutation(seed, epoch, count)
        if config.by_length:
            pools = [rows[start : start + POOL * size] for start in range(0, count, POOL * size)]
            rows = np.concatenate([pool[np.argsort(train["lengths"][pool], kind="stable")] for pool in pools])
        starts = np.arange(0, count, size)
        for start in starts[order.permutation(seed, epoch, len(starts))] if config.by_length else starts:
            yield _batch(train, rows[start : start + size], size)


def _batch(data: Data, rows: np.ndarray, size: int) -> dict[str, Array]:
    """Rows as a global batch of at least `size`, cut to the longest's step of the ladder."""
    size = features.round_up(size, sharding.data_devices())
    weight = (np.arange(size) < len(rows)).astype(np.float32)
    rows = np.resize(rows, size)  # real rows again, with weight 0: those of length 0 have no attention
    longest, whole = data["lengths"][rows].max(), data["tokens"].shape[1]
    length = next((step for step in LADDER if longest <= step < whole), whole)
    cut = {name: data[name][rows, :length] for name in ("tokens", "segments")}
    cut |= {name: data[name][rows] for name in ("lengths", "label") if name in data}
    return {name: features.place(array, split=True) for name, array in (cut | {"weight": weight}).items()}
