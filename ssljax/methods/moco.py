"""MoCo v1 and v2: a queue of negative keys and a momentum encoder."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from ssljax import diagnostics, sharding
from ssljax import queue as negatives
from ssljax.losses import contrastive
from ssljax.methods import shuffle as shuffle_bn
from ssljax.methods import teacher
from ssljax.types import Array, BadInputError, Encoder, Method, PyTree, chain


@struct.dataclass
class MoCoAux:
    """What MoCo carries from step to step besides the query encoder's parameters.

    Attributes:
        stats: the query encoder's batch statistics.
        key_params: the key (momentum) encoder's parameters, no gradient.
        key_stats: the key encoder's own batch statistics; the momentum does not touch them.
        queue: the negative keys.
    """

    stats: PyTree
    key_params: PyTree
    key_stats: PyTree
    queue: negatives.Queue


def moco(
    backbone: Encoder,
    projector: Encoder,
    *,
    queue_size: int = 65536,
    momentum: teacher.Momentum = 0.999,
    temperature: float = 0.2,
    symmetric: bool = False,
    shuffle: bool = True,
) -> Method:
    """MoCo: queries are matched to the momentum encoder's keys among a queue of older keys.

    v1 and v2 differ in projector, temperature, views and schedule only, so one function is both. For the official
    ShuffleBN the encoders' BatchNorm must work in groups (`models.resnet50(groups=8)` is FAIR's eight GPUs).

    Args:
        backbone: images [B, h, w, C] -> features [B, F].
        projector: features [B, F] -> embeddings [B, D].
        queue_size: K, the number of negative keys; a multiple of what one step enqueues.
        momentum: m in `key = m * key + (1 - m) * query`, in [0, 1]; or a schedule `step -> m`.
        temperature: T > 0 of the InfoNCE logits.
        symmetric: also match the second view's queries to the first view's keys; the two losses are summed and
            both views' keys are enqueued.
        shuffle: permute the key images over the whole batch before the key encoder and undo it on the keys.

    Returns:
        A `Method` on batches `{"view_1", "view_2"}` of float [B, h, w, C]; view 1 is the query's.

    Raises:
        BadInputError: T <= 0, m outside [0, 1] or K < 1 (here); K not a multiple of the keys of a step (in
            `init`).

    Reference:
        MoCo arXiv 1911.05722, algorithm 1; MoCo v2 arXiv 2003.04297; step order of `moco/builder.py` in
        facebookresearch/moco; the symmetric variant of that repository's CIFAR demo.

    Differs from the paper:
        The momentum update comes after the optimiser's, see `teacher.average`.
        From 16 devices on, where the batch allows it, the permutation of ShuffleBN is balanced: each device deals out
        its rows in random order and equal shares to itself and 7 or more others (`shuffle.permutation`). A device then
        sends the same however many there are; the paper's permutation, drawn from all, takes a gather of the whole
        batch. At most an eighth of a device's pictures stay on it, as many as on the paper's eight GPUs. What is drawn
        depends on the number of devices then.
    """
    teacher.check_momentum(momentum)
    teacher.check_temperature(temperature)
    if queue_size < 1:
        raise BadInputError(f"queue_size={queue_size}: use at least the number of keys enqueued per step.")
    encoder = chain(backbone=backbone, projector=projector)

    def init(key, batch):
        encoder_key, queue_key = jax.random.split(key)
        view = batch["view_1"]
        _check_queue(view.shape[0], queue_size, symmetric)
        params, stats = encoder.init(encoder_key, view)
        dim = jax.eval_shape(lambda: encoder.apply(params, stats, view, train=False)[0]).shape[-1]
        key_params, key_stats = teacher.copy((params, stats))
        return params, MoCoAux(stats, key_params, key_stats, negatives.init(queue_key, queue_size, dim))

    def one_direction(params, stats, key_stats, aux, query_view, key_view, key):
        query_key, key_key = jax.random.split(jax.random.fold_in(key, 1))  # `key` itself draws the permutation
        query, stats = encoder.apply(params, stats, query_view, train=True, key=query_key)
        query = contrastive.l2_normalize(query)
        encode = functools.partial(encoder.apply, aux.key_params, key_stats, train=True, key=key_key)
        keys, key_stats = _encode_keys(encode, key_view, key if shuffle else None)
        keys = jax.lax.stop_gradient(keys)
        scored = {"temperature": temperature, "similarity": "inner"}
        value = contrastive.info_nce(query, keys, aux.queue.keys, **scored)
        logits = contrastive.info_nce_logits(query, keys, aux.queue.keys, **scored)
        return value, stats, key_stats, keys, _metrics(query, keys, logits)

    def loss(params, aux, batch, key, step):
        view_1, view_2 = batch["view_1"], batch["view_2"]
        key_12, key_21 = jax.random.split(key)
        value, stats, key_stats, keys, metrics = one_direction(
            params, aux.stats, aux.key_stats, aux, view_1, view_2, key_12
        )
        new_keys = sharding.gather(keys)
        if symmetric:
            other, stats, key_stats, keys, _ = one_direction(params, stats, key_stats, aux, view_2, view_1, key_21)
            value = value + other
            new_keys = jnp.concatenate([sharding.gather(keys), new_keys])
        queue = negatives.enqueue(aux.queue, new_keys)
        aux = dataclasses.replace(aux, stats=stats, key_stats=key_stats, queue=queue)
        momentum_now = teacher.momentum_at(momentum, step + 1)
        return value, (aux, {"loss": value, "momentum": jnp.asarray(momentum_now, jnp.float32), **metrics})

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


def _encode_keys(encode: Callable[[Array], tuple[Array, PyTree]], images: Array, shuffle: Array | None):
    """Normalised keys [B, D] and the new statistics; with a key in `shuffle`, images are permuted on the way."""
    if shuffle is None:
        keys, stats = encode(images)
        return contrastive.l2_normalize(keys), stats
    permute, restore = shuffle_bn.permutation(shuffle, images.shape[0])
    keys, stats = encode(permute(images))
    return restore(contrastive.l2_normalize(keys)), stats


def _metrics(query: Array, keys: Array, logits: Array) -> dict[str, Array]:
    own_key = jnp.zeros(query.shape[0], jnp.int32)
    return {
        "pretext_top1": diagnostics.topk_accuracy(logits, own_key, 1),
        "pretext_top5": diagnostics.topk_accuracy(logits, own_key, 5),
        "embedding_std": diagnostics.embedding_std(query),
        "alignment": diagnostics.alignment(query, keys),
    }


def _check_queue(batch_size: int, queue_size: int, symmetric: bool) -> None:
    enqueued = 2 * batch_size if symmetric else batch_size
    if queue_size % enqueued:
        raise BadInputError(
            f"queue_size={queue_size} must be a multiple of {enqueued}, the keys enqueued per step; "
            f"use {max(queue_size // enqueued, 1) * enqueued}."
        )
