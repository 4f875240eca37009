"""MoCo v3: keys of the global batch instead of a queue, and a predictor on the query's side."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from ssljax import diagnostics, sharding
from ssljax.losses import contrastive
from ssljax.methods import teacher
from ssljax.types import Array, BadInputError, Encoder, Method, PyTree, chain


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
    momentum: teacher.Momentum = 0.99,
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
            counted from 0, are made, such as `optim.Pace.rising`.

    Returns:
        A `Method` on batches `{"view_1", "view_2"}` of float [B, h, w, C]. Its features `"embedding"` are the
        projector's.

    Raises:
        BadInputError: T <= 0 or m outside [0, 1] (here); a batch of one picture (in `init`); a predictor whose outputs
            are not as wide as the keys (in `loss`).

    Reference:
        arXiv 2104.02057, algorithm 1; `moco/builder.py` and `main_moco.py` of facebookresearch/moco-v3.

    Differs from the paper:
        The momentum update comes after the optimiser's, with the next step's m, see `teacher.average`.
    """
    teacher.check_momentum(momentum)
    teacher.check_temperature(temperature)
    encoder = chain(backbone=backbone, projector=projector)
    whole = chain(backbone=backbone, projector=projector, predictor=predictor)

    def init(key, batch):
        view = batch["view_1"]
        _check_batch(view.shape[0])
        params, stats = whole.init(key, view)
        key_params, key_stats = teacher.copy((_without_predictor(params), _without_predictor(stats)))
        return params, MoCoV3Aux(stats, key_params, key_stats)

    def loss(params, aux, batch, key, step):
        views = (batch["view_1"], batch["view_2"])
        query_key, key_key = jax.random.split(key)
        (query_1, query_2), stats = teacher.apart(whole, params, aux.stats, views, query_key)
        encoded = teacher.apart(encoder, aux.key_params, aux.key_stats, views, key_key)
        (key_1, key_2), key_stats = jax.lax.stop_gradient(encoded)
        keys_1, keys_2 = sharding.gather((key_1, key_2))
        scored = {"temperature": temperature}
        value = contrastive.in_batch_info_nce(query_1, keys_2, **scored)
        value += contrastive.in_batch_info_nce(query_2, keys_1, **scored)
        logits = contrastive.in_batch_logits(query_1, keys_2, **scored)
        momentum_now = jnp.asarray(teacher.momentum_at(momentum, step + 1), jnp.float32)
        metrics = {"loss": value, "momentum": momentum_now, **_metrics(query_1, key_2, logits)}
        return value, (dataclasses.replace(aux, stats=stats, key_stats=key_stats), metrics)

    def after_update(params, aux, step):
        key_params = teacher.average(aux.key_params, params, momentum, step)
        return params, dataclasses.replace(aux, key_params=key_params)

    return Method(
        init=init,
        loss=loss,
        after_update=after_update,
        features=lambda params, aux, inputs: teacher.features(backbone, projector, params, aux.stats, inputs),
        encoder=lambda params, aux: teacher.backbone_of(params, aux.stats),
    )


def _without_predictor(tree: PyTree) -> PyTree:
    """What the key encoder has of the parameters or statistics."""
    return {name: tree[name] for name in ("backbone", "projector")}


def _metrics(query: Array, keys: Array, logits: Array) -> dict[str, Array]:
    return {
        "pretext_top1": diagnostics.topk_accuracy(logits, jnp.arange(len(query)), 1),
        "embedding_std": diagnostics.embedding_std(query),
        "alignment": diagnostics.alignment(query, keys),
    }


def _check_batch(batch_size: int) -> None:
    if batch_size < 2:
        raise BadInputError(f"batch_size={batch_size}: the negatives are the batch's other pictures; use at least 2.")
