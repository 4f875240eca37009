"""Losses that distinguish a positive from negatives: InfoNCE with a queue or in the batch, NT-Xent, the binary form."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ssljax.types import Array, BadInputError

SIMILARITIES = ("cosine", "inner")
TINY_SQUARE = 1e-24


def l2_normalize(x: Array, axis: int = -1) -> Array:
    """Vectors of length one; a zero vector is unchanged and gets a zero gradient.

    Args:
        x: [..., D] of any float type.
        axis: the axis that is a vector.

    Returns:
        The shape of `x`, float32 (float64 for float64). A vector shorter than 1e-12 becomes zero.

    >>> l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    x = _at_least_float32(x)
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    has_direction = square > TINY_SQUARE
    # both wheres: the inner one keeps the untaken branch's derivative finite
    return jnp.where(has_direction, x * jax.lax.rsqrt(jnp.where(has_direction, square, 1.0)), 0.0)


def info_nce_logits(
    query: Array, positive_key: Array, negative_keys: Array, *, temperature: Any, similarity: str = "cosine"
) -> Array:
    """Scores of each query against its own key and against every negative; the right answer is column 0.

    Args:
        query: [B, D].
        positive_key: [B, D], row i belongs to query i.
        negative_keys: [K, D], shared by all queries, the same on every device (a queue's rows).
        temperature: positive scalar that the similarities are divided by.
        similarity: `"cosine"` normalises all three inputs; `"inner"` uses them unchanged.

    Returns:
        [B, 1 + K], float32 or wider: `[q . k_positive, q . k_negative...] / temperature`.

    Raises:
        BadInputError: shapes that do not fit, an unknown similarity, or a temperature that is not positive.

    Reference: arXiv 1911.05722, Algorithm 1; facebookresearch/moco `moco/builder.py`.
    """
    _check_temperature(temperature)
    _check_rows("query", query, "positive_key", positive_key)
    if negative_keys.ndim != 2 or negative_keys.shape[1] != query.shape[1]:
        raise BadInputError(
            f"negative_keys has shape {negative_keys.shape}; give [K, {query.shape[1]}], as wide as the queries."
        )
    if similarity not in SIMILARITIES:
        raise BadInputError(f"similarity={similarity!r} is unknown; choose one of {', '.join(SIMILARITIES)}.")
    prepare = l2_normalize if similarity == "cosine" else _at_least_float32
    query, positive_key, negative_keys = map(prepare, (query, positive_key, negative_keys))
    positive = jnp.sum(query * positive_key, axis=1, keepdims=True)
    return jnp.concatenate([positive, _products(query, negative_keys)], axis=1) / temperature


def info_nce(
    query: Array, positive_key: Array, negative_keys: Array, *, temperature: Any, similarity: str = "cosine"
) -> Array:
    """InfoNCE: cross-entropy of picking each query's own key among the negatives, averaged over the queries.

    No gradient is stopped: MoCo's caller does it, with `jax.lax.stop_gradient` on the keys.

    Args:
        query: [B, D].
        positive_key: [B, D], row i belongs to query i.
        negative_keys: [K, D], shared by all queries, the same on every device (a queue's rows).
        temperature: positive scalar that the similarities are divided by.
        similarity: `"cosine"` normalises all three inputs; `"inner"` uses them unchanged.

    Returns:
        Scalar, nats; log(1 + K) when all similarities are equal.

    Raises:
        BadInputError: shapes that do not fit, an unknown similarity, or a temperature that is not positive.

    Reference: arXiv 1911.05722, equation 1; facebookresearch/moco `moco/builder.py`.

    >>> q = jnp.array([[1.0, 0.0]])
    >>> round(float(info_nce(q, q, jnp.zeros((3, 2)), temperature=1.0)), 4)
    0.7437
    """
    logits = info_nce_logits(query, positive_key, negative_keys, temperature=temperature, similarity=similarity)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def in_batch_logits(query: Array, keys: Array, *, temperature: Any) -> Array:
    """Cosine similarities of each query to all keys of the global batch, over the temperature: float [B, N].

    Arguments and errors are those of `in_batch_info_nce`, which is their cross-entropy.
    """
    _check_temperature(temperature)
    if query.ndim != 2 or keys.ndim != 2 or len(keys) < len(query) or keys.shape[1] != query.shape[1]:
        raise BadInputError(
            f"keys has shape {keys.shape}; give [N, D] of the whole batch, as wide as query {query.shape}."
        )
    return _products(l2_normalize(query), l2_normalize(keys)) / temperature


def in_batch_info_nce(query: Array, keys: Array, *, temperature: Any, first_row: Any = 0) -> Array:
    """MoCo v3's loss, one direction: each query's own key is distinguished from the other images' keys, times 2 T.

    No gradient is stopped: MoCo v3's caller does it, with `jax.lax.stop_gradient` on the keys.

    Args:
        query: [B, D]; under a mesh sharded by rows.
        keys: [N, D], of all devices and replicated: `gather(key)`. Under a mesh jax rejects keys that are not gathered.
        temperature: T, the positive scalar that the cosine similarities are divided by.
        first_row: the row of `keys` that belongs to row 0 of `query`, as in `nt_xent`.

    Returns:
        Scalar, nats times 2 T, the mean over the B queries; 2 T log(N) when all similarities are equal.

    Raises:
        BadInputError: shapes that do not fit, or a temperature that is not positive.

    Reference: arXiv 2104.02057, equation 1 and Algorithm 1; facebookresearch/moco-v3 `moco/builder.py`.

    >>> round(float(in_batch_info_nce(jnp.eye(2), jnp.eye(2), temperature=0.5)), 4)
    0.1269
    """
    logits = in_batch_logits(query, keys, temperature=temperature)
    is_own = (first_row + jnp.arange(len(query)))[:, None] == jnp.arange(len(keys))[None, :]
    own = jnp.sum(jnp.where(is_own, logits, 0.0), axis=1)
    return 2 * temperature * jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)


def nt_xent(
    z_1: Array,
    z_2: Array,
    *,
    temperature: Any,
    candidates: tuple[Array, Array] | None = None,
    first_row: Any = 0,
) -> Array:
    """NT-Xent: each view is matched with its positive, among 2N - 1 views of the global batch, by cosine similarity.

    Args:
        z_1: [B, D], first views; under a mesh sharded by rows.
        z_2: [B, D], second views of the same images.
        temperature: positive scalar that the similarities are divided by.
        candidates: both views of all devices, each [N, D] and replicated: `(gather(z_1), gather(z_2))` with a
            differentiable gather. Default: `(z_1, z_2)`, for one device; under a mesh jax rejects it.
        first_row: the row of `candidates` that row 0 of `z_1` is. 0 where arrays are global (jit); under
            `shard_map`, where a device sees its own rows, `axis_index * B`: the loss is then their mean.

    Returns:
        Scalar, nats, the mean over the 2B rows; log(2N - 1) when all similarities are equal.

    Raises:
        BadInputError: shapes that do not fit, or a temperature that is not positive.

    Reference: arXiv 2002.05709, equation 1 and Algorithm 1 (mean over 2N); google-research/simclr
    `objective.py`.
    Differs from SimCLR's official code, which adds the means of the two views: its loss is twice this one.

    >>> z = jnp.eye(2)
    >>> round(float(nt_xent(z, z, temperature=1.0)), 4)
    0.5514
    """
    _check_temperature(temperature)
    _check_rows("z_1", z_1, "z_2", z_2)
    all_1, all_2 = (z_1, z_2) if candidates is None else candidates
    _check_rows("candidates[0]", all_1, "candidates[1]", all_2)
    if all_1.shape[0] < z_1.shape[0] or all_1.shape[1] != z_1.shape[1]:
        raise BadInputError(f"candidates {all_1.shape} cannot hold the rows of z_1 {z_1.shape}; gather z_1.")
    z_1, z_2, all_1, all_2 = map(l2_normalize, (z_1, z_2, all_1, all_2))
    positive = jnp.sum(z_1 * z_2, axis=1) / temperature
    rows = first_row + jnp.arange(z_1.shape[0])
    is_self = rows[:, None] == jnp.arange(all_1.shape[0])[None, :]

    def view_loss(z, same, other):
        same_view = jnp.where(is_self, -jnp.inf, _products(z, same) / temperature)
        logits = jnp.concatenate([same_view, _products(z, other) / temperature], axis=1)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)

    return (view_loss(z_1, all_1, all_2) + view_loss(z_2, all_2, all_1)) / 2


def binary_contrastive(h_i: Array, h_j: Array, y: Array) -> Array:
    """Logistic loss on inner products: mean of log(1 + exp(-y h_i . h_j)), y = 1 for a pair, else -1.

    With labels in {-1, +1} this is the sigmoid cross-entropy of h_i . h_j with the target (y + 1) / 2. With
    labels in {0, 1} it is not: at y = 0 the term is the constant log 2. They are rejected.

    Args:
        h_i: [B, D].
        h_j: [B, D].
        y: [B], each -1 or +1, integer or float.

    Returns:
        Scalar, nats. NaN, with NaN gradients, if a label is wrong where it cannot be inspected (under jit).

    Raises:
        BadInputError: shapes that do not fit, or a label other than -1 and +1 outside jit.

    Reference: the logistic form of noise-contrastive estimation; arXiv 1807.03748 is its many-class relative.

    >>> h = jnp.zeros((2, 3))
    >>> round(float(binary_contrastive(h, h, jnp.array([1, -1]))), 4)
    0.6931
    """
    _check_rows("h_i", h_i, "h_j", h_j)
    y = jnp.asarray(y)
    if y.shape != h_i.shape[:1]:
        raise BadInputError(f"y has shape {y.shape}; it must be {h_i.shape[:1]}, one label per pair.")
    y = _at_least_float32(y)
    is_label = jnp.abs(y) == 1
    if not isinstance(y, Tracer) and not bool(jnp.all(is_label)):
        raise BadInputError("y has a label other than -1 and +1; map labels {0, 1} to 2 * y - 1.")
    product = jnp.sum(_at_least_float32(h_i) * _at_least_float32(h_j), axis=1)
    return jnp.mean(jax.nn.softplus(-jnp.where(is_label, y, jnp.nan) * product))


def _at_least_float32(x: Array) -> Array:
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _products(rows: Array, columns: Array) -> Array:
    # the accelerators' default for float32 is a bfloat16 or TF32 product: logits off by .05 at T = .07
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def _check_temperature(temperature: Any) -> None:
    if not isinstance(temperature, Tracer) and not float(temperature) > 0:
        raise BadInputError(f"temperature={temperature}: give a value above 0.")


def _check_rows(name: str, x: Array, other_name: str, other: Array) -> None:
    if x.ndim != 2 or x.shape != other.shape:
        raise BadInputError(f"{name} {x.shape} and {other_name} {other.shape} must both be [B, D], alike.")
