"""BERT: predict masked words from both sides, and whether the second segment follows the first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from ssljax.losses import masked
from ssljax.types import Array, BadInputError, Batch, Encoder, Method, PyTree

INPUTS = ("tokens", "segments", "lengths")
MASKED = (*INPUTS, "is_random", "positions", "targets", "weights")


@struct.dataclass
class BertAux:
    """BERT has no state besides its parameters."""


def bert(encoder: Encoder, mlm_head: Encoder, nsp_head: Encoder, *, word_table: Callable[[PyTree], Array]) -> Method:
    """BERT's pre-training: the sum of the masked-language-model and the next-sentence losses.

    Args:
        encoder: (tokens int32[B, L], segments int32[B, L], lengths int32[B]) -> {"tokens": [B, L, H],
            "pooled": [B, H]}.
        mlm_head: (hidden [B, P, H], word table [V, H]) -> logits [B, P, V]; the table is the encoder's own.
        nsp_head: pooled [B, H] -> logits [B, 2], class 1 for a random segment.
        word_table: the encoder's parameters -> its word embeddings [V, H].

    Returns:
        A `Method` whose params are `{"encoder", "mlm", "nsp"}`. Its batches are masked ones (`text.masking`):
        tokens, segments int32[B, L], lengths, is_random int32[B], positions, targets int32[B, P] and weights
        float32[B, P]. Its features are `"backbone"`, the mean of the last layer over an example's tokens, and
        `"embedding"`, the pooled output.

    Raises:
        BadInputError: while it is traced, for a batch that lacks an array or has one of a wrong shape, or an encoder
            with batch statistics or of other outputs.

    Reference: arXiv 1810.04805, section 3.1 and appendix A.2; google-research/bert `run_pretraining.py`.
    """

    def init(key, batch):
        check_batch(batch)
        encoder_key, mlm_key, nsp_key = jax.random.split(key, 3)
        inputs = [batch[name] for name in INPUTS]
        params, stats = encoder.init(encoder_key, *inputs)
        if jax.tree.leaves(stats):
            raise BadInputError("the encoder keeps batch statistics, which BERT has no place for; use LayerNorm.")
        outputs = jax.eval_shape(lambda: encoder.apply(params, {}, *inputs, train=False)[0])
        _check_outputs(outputs, batch["tokens"].shape)
        count, width = batch["positions"].shape[1], outputs["tokens"].shape[2]
        # the heads' parameters depend on shapes alone
        hidden = jnp.zeros((batch["tokens"].shape[0], count, width), outputs["tokens"].dtype)
        pooled = jnp.zeros(outputs["pooled"].shape, outputs["pooled"].dtype)
        mlm, _ = mlm_head.init(mlm_key, hidden, word_table(params))
        nsp, _ = nsp_head.init(nsp_key, pooled)
        return {"encoder": params, "mlm": mlm, "nsp": nsp}, BertAux()

    def loss(params, aux, batch, key, step):
        del step
        value, metrics = score(encoder, mlm_head, nsp_head, params, batch, word_table=word_table, train=True, key=key)
        return value, (aux, metrics)

    def features(params, aux, inputs):
        del aux
        outputs, _ = encoder.apply(params["encoder"], {}, *(inputs[name] for name in INPUTS), train=False)
        return {"backbone": mean_of_tokens(outputs["tokens"], inputs["lengths"]), "embedding": outputs["pooled"]}

    return Method(
        init=init,
        loss=loss,
        after_update=lambda params, aux, step: (params, aux),
        features=features,
        encoder=lambda params, aux: (params["encoder"], {}),
    )


def score(
    encoder: Encoder,
    mlm_head: Encoder,
    nsp_head: Encoder,
    params: PyTree,
    batch: Batch,
    *,
    word_table: Callable[[PyTree], Array],
    train: bool,
    key: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The loss and the metrics of a masked batch, with dropout (`train`, for the gradient) or without (held out).

    Args:
        encoder: as in `bert`.
        mlm_head: as in `bert`.
        nsp_head: as in `bert`.
        params: `{"encoder", "mlm", "nsp"}`.
        batch: a masked batch.
        word_table: as in `bert`.
        train: whether the encoder drops out.
        key: seeds the dropout.

    Returns:
        The loss in nats and scalars: loss, mlm_loss, mlm_accuracy (per cent), perplexity, nsp_loss, nsp_accuracy
        (per cent), tokens_per_example, padding (per cent of the tokens).

    Raises:
        BadInputError: as in `bert`.
    """
    check_batch(batch)
    outputs, _ = encoder.apply(params["encoder"], {}, *(batch[name] for name in INPUTS), train=train, key=key)
    _check_outputs(outputs, batch["tokens"].shape)
    hidden, keys = take_positions(outputs["tokens"], batch["positions"]), _head_keys(key)
    logits, _ = mlm_head.apply(params["mlm"], {}, hidden, word_table(params["encoder"]), train=train, key=keys[0])
    mlm_loss, mlm_accuracy = masked.masked_cross_entropy(logits, batch["targets"], batch["weights"])
    logits, _ = nsp_head.apply(params["nsp"], {}, outputs["pooled"], train=train, key=keys[1])
    nsp_loss, nsp_accuracy = masked.next_sentence(logits, batch["is_random"])
    tokens = jnp.mean(batch["lengths"].astype(jnp.float32))
    value = mlm_loss + nsp_loss
    return value, {
        "loss": value,
        "mlm_loss": mlm_loss,
        "mlm_accuracy": mlm_accuracy,
        "perplexity": jnp.exp(mlm_loss),
        "nsp_loss": nsp_loss,
        "nsp_accuracy": nsp_accuracy,
        "tokens_per_example": tokens,
        "padding": 100 * (1 - tokens / batch["tokens"].shape[1]),
    }


def _head_keys(key: Array | None) -> tuple[Array | None, Array | None]:
    return (None, None) if key is None else (jax.random.fold_in(key, 1), jax.random.fold_in(key, 2))


def take_positions(hidden: Array, positions: Array) -> Array:
    """Rows of each example: [B, L, H] at int[B, P] -> [B, P, H], sharded as the batch is."""
    # only these reach the vocabulary projection, which costs most of a small model's step
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="clip"))(hidden, positions)


def mean_of_tokens(hidden: Array, lengths: Array) -> Array:
    """Mean of the first `lengths` rows of each example, the special tokens' included.

    Args:
        hidden: [B, L, H].
        lengths: int[B].

    Returns:
        float32[B, H]; 0 where an example has no token.
    """
    real = jnp.arange(hidden.shape[1])[None, :] < lengths[:, None]
    total = jnp.sum(jnp.where(real[..., None], hidden.astype(jnp.float32), 0.0), axis=1)
    return total / jnp.maximum(lengths, 1).astype(jnp.float32)[:, None]


def check_batch(batch: Batch) -> None:
    """Refuse a batch that is not a masked one.

    Raises:
        BadInputError: an array is missing or does not fit the others.
    """
    missing = [name for name in MASKED if name not in batch]
    if missing:
        raise BadInputError(f"the batch lacks {', '.join(missing)}; let `text.masking.Masking` be the views.")
    shapes = {name: tuple(batch[name].shape) for name in MASKED}
    if len(shapes["tokens"]) != 2 or len(shapes["positions"]) != 2:
        raise BadInputError(f"tokens {shapes['tokens']} must be [B, L], positions {shapes['positions']} [B, P].")
    (size, _), (_, count) = shapes["tokens"], shapes["positions"]
    expected = {"segments": shapes["tokens"], "lengths": (size,), "is_random": (size,)}
    expected |= dict.fromkeys(("positions", "targets", "weights"), (size, count))
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise BadInputError(f"{name} has shape {shapes[name]}; with tokens {shapes['tokens']} it must be {shape}.")
    for name in set(MASKED) - {"weights"}:
        if not jnp.issubdtype(batch[name].dtype, jnp.integer):
            raise BadInputError(f"{name} is {batch[name].dtype}; give int32.")


def _check_outputs(outputs, tokens_shape) -> None:
    shapes = {name: tuple(value.shape) for name, value in outputs.items()} if isinstance(outputs, dict) else {}
    tokens, pooled = shapes.get("tokens", ()), shapes.get("pooled", ())
    if len(tokens) != 3 or tokens[:2] != tokens_shape or len(pooled) != 2 or pooled[0] != tokens_shape[0]:
        raise BadInputError(
            f"the encoder's outputs are {shapes or type(outputs).__name__}; BERT wants tokens [B, L, H] and pooled "
            f"[B, H] for tokens {list(tokens_shape)}."
        )
