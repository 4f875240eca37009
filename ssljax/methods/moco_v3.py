"""MoCo v3: keys of the global batch instead of a queue, and a predictor on the query's side."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ssljax import diagnostics, ema, sharding
from ssljax.losses import contrastive
from ssljax.types import Array, BadInputError, Batch, Encoder, Method, PyTree, chain


@struct.dataclass
class MoCoV3Aux:
    """What MoCo v3 carries from step to step besides the query encoder's parameters.

    Attributes:
        stats: batch statistics of backbone, projector and predictor.
        key_params: parameters of the key (momentum) encoder, a backbone and a projector; no gradient.
        key_stats: the key encoder's own batch statistics; the momentum does not touch them.
    """

    stats: PyTree
    key_params: PyTree
    key_stats: PyTree


def moco_v3(
    backbone: Encoder,
    projector: Encoder,
    predictor: Encoder,
    *,
    temperature: float = 1.0,
    momentum: float | Callable[[Array], Any] = 0.99,
) -> Method:
    """MoCo v3: predictions from one view are matched to the other view's keys among those of the whole batch.

    Both views are queries and keys, and the losses of the two directions are summed. BatchNorm should see the global
    batch (`groups=1`), as in the official code.

    Args:
        backbone: images [B, h, w, C] -> features [B, F].
        projector: features [B, F] -> embeddings [B, D].
        predictor: embeddings [B, D] -> predictions of the other view's keys [B, D]; not in the momentum encoder.
        temperature: T > 0 of the InfoNCE logits; the cross-entropies are multiplied by 2 T.
        momentum: m in `key = m * key + (1 - m) * query`, in [0, 1]; or `step -> m`, with which the keys of that step,
            counted from 0, are made, such as `ema.cosine_momentum` of a base and the run's length.

    Returns:
        A `Method` on batches `{"view_1", "view_2"}` of float [B, h, w, C]. Its features `"embedding"` are the
        projector's.

    Raises:
        BadInputError: T <= 0 or m outside [0, 1] (here); a batch of one picture or one that does not divide over the
            devices (in `init`); a predictor whose outputs are not as wide as the keys (in `loss`).

    Reference:
        arXiv 2104.02057, algorithm 1; `moco/builder.py` and `main_moco.py` of facebookresearch/moco-v3.

    Differs from the paper:
        The momentum update comes after the optimiser, with the next step's m, instead of before the next step's keys:
        the same sequence, as the very first update there is of equal encoders.
    """
    if not callable(momentum):
        ema.check_momentum(momentum)
    if temperature <= 0:
        raise BadInputError(f"temperature={temperature}: InfoNCE divides by it; give a number above 0.")
    encoder = chain(backbone=backbone, projector=projector)
    whole = chain(backbone=backbone, projector=projector, predictor=predictor)

    def init(key, batch):
        view = batch["view_1"]
        _check_batch(view.shape[0])
        params, stats = whole.init(key, view)
        # copies: a donated state may not hold one buffer twice
        key_params, key_stats = jax.tree.map(jnp.copy, (_encoder_part(params), _encoder_part(stats)))
        return params, MoCoV3Aux(stats, key_params, key_stats)

    def loss(params, aux, batch, key):
        del key
        query_1, query_2, stats = _both(whole, params, aux.stats, batch)
        key_1, key_2, key_stats = jax.lax.stop_gradient(_both(encoder, aux.key_params, aux.key_stats, batch))
        keys_1, keys_2 = sharding.gather((key_1, key_2))
        scored = {"temperature": temperature}
        value = contrastive.in_batch_info_nce(query_1, keys_2, **scored)
        value += contrastive.in_batch_info_nce(query_2, keys_1, **scored)
        logits = contrastive.in_batch_logits(query_1, keys_2, **scored)
        metrics = {"loss": value, **_metrics(query_1, key_2, logits)}
        return value, (dataclasses.replace(aux, stats=stats, key_stats=key_stats), metrics)

    def after_update(params, aux, step):
        # the next step's keys are the next ones to be made
        now = momentum(step + 1) if callable(momentum) else momentum
        return dataclasses.replace(aux, key_params=ema.ema(aux.key_params, _encoder_part(params), now))

    def features(params, aux, inputs):
        outputs, _ = backbone.apply(params["backbone"], aux.stats["backbone"], inputs, train=False)
        embedding, _ = projector.apply(params["projector"], aux.stats["projector"], outputs, train=False)
        return {"backbone": outputs, "embedding": embedding}

    return Method(init, loss, after_update, features)


def _encoder_part(tree: PyTree) -> PyTree:
    """What the key encoder has of the parameters or statistics: all but the predictor's."""
    return {name: tree[name] for name in ("backbone", "projector")}


def _both(encoder: Encoder, params: PyTree, stats: PyTree, batch: Batch) -> tuple[Array, Array, PyTree]:
    """Each view's outputs, normalised by statistics of its own, and the statistics that both have moved."""
    first, stats = encoder.apply(params, stats, batch["view_1"], train=True)
    second, stats = encoder.apply(params, stats, batch["view_2"], train=True)
    return first, second, stats


def _metrics(query: Array, keys: Array, logits: Array) -> dict[str, Array]:
    return {
        "pretext_top1": diagnostics.topk_accuracy(logits, jnp.arange(len(query)), 1),
        "embedding_std": diagnostics.embedding_std(query),
        "alignment": diagnostics.alignment(query, keys),
    }


def _check_batch(batch_size: int) -> None:
    if batch_size < 2:
        raise BadInputError(f"batch_size={batch_size}: the negatives are the batch's other pictures; give at least 2.")
    if batch_size % sharding.data_devices():
        raise BadInputError(
            f"batch_size={batch_size} does not divide over {sharding.data_devices()} devices; choose a multiple."
        )
