"""Numbers that distinguish a healthy representation from a collapsed one, for rows sharded over a mesh or not."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssljax.losses.contrastive import l2_normalize
from ssljax.types import Array, BadInputError


def alignment(x: Array, y: Array, alpha: float = 2) -> Array:
    """Mean distance between the embeddings of a positive pair, to the power `alpha`; 0 is best.

    Args:
        x: [B, D]; normalised here.
        y: [B, D], row i is the positive of row i of `x`; normalised here.
        alpha: exponent of the distance.

    Returns:
        Scalar in [0, 2 ** alpha].

    Reference: arXiv 2005.10242, equation for L_align in section 4.1; SsnL/align_uniform.
    """
    difference = l2_normalize(x) - l2_normalize(y)
    return jnp.mean(jnp.sum(difference * difference, axis=1) ** (alpha / 2))


def uniformity(x: Array, t: float = 2) -> Array:
    """Log of the mean Gaussian potential of all pairs of embeddings; lower is more uniform, 0 is collapse.

    Args:
        x: [B, D], B > 1; normalised here. Costs B x B memory.
        t: scale of the Gaussian.

    Returns:
        Scalar in [-4 t, 0].

    Raises:
        BadInputError: fewer than two rows.

    Reference: arXiv 2005.10242, equation for L_uniform in section 4.1; SsnL/align_uniform (pairs i < j).
    """
    count = x.shape[0]
    if count < 2:
        raise BadInputError(f"uniformity of {count} rows: give at least two rows.")
    x = l2_normalize(x)
    everyone = _replicated(x)
    squares = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(everyone * everyone, axis=1)[None, :]
    products = jnp.matmul(x, everyone.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.maximum(squares - 2 * products, 0)
    is_self = jnp.arange(count)[:, None] == jnp.arange(count)[None, :]
    # a sum per row first: a log-sum-exp over the sharded axis would need a maximum over devices
    potentials = jnp.where(is_self, 0.0, jnp.exp(-t * distances))
    return jnp.log(jnp.sum(potentials) / (count * (count - 1)))


def rankme(z: Array, eps: float = 1e-7) -> Array:
    """Effective rank of a set of embeddings: exp of the entropy of its normalised singular values.

    The singular values come from the gathered matrix itself, because those of its Gram matrix are noise below
    sqrt(float32's precision), which counts a collapsed embedding as spread out.

    Args:
        z: [B, D], neither normalised nor centred; the paper uses 25600 rows.
        eps: added to each normalised singular value.

    Returns:
        Scalar between 1 (one direction) and min(B, D).

    Reference: arXiv 2210.02885, equation 1.
    """
    wide = jnp.promote_types(z.dtype, jnp.float32)
    singular = jnp.linalg.svd(_replicated(z).astype(wide), compute_uv=False)
    share = singular / jnp.maximum(jnp.sum(singular), jnp.finfo(wide).tiny) + eps
    return jnp.exp(-jnp.sum(share * jnp.log(share)))


def embedding_std(z: Array) -> Array:
    """Standard deviation of normalised embeddings over the batch, averaged over dimensions.

    Args:
        z: [B, D].

    Returns:
        Scalar: about 1 / sqrt(D) when spread over the sphere, 0 when collapsed. Divides by B, not B - 1.

    Reference: arXiv 2011.10566, section 4.1 and figure 2.
    """
    return jnp.mean(jnp.std(l2_normalize(z), axis=0))


def topk_accuracy(logits: Array, labels: Array, k: int = 1) -> Array:
    """Per cent of rows whose label is among the k best scores, ties counting against it.

    A row is right when fewer than k other scores reach its label's score. Constant logits (collapse) and NaN
    thus score 0, where a sort would let them score by luck.

    Args:
        logits: [B, C].
        labels: int[B] in [0, C); a label outside is wrong.
        k: 1 to C - 1.

    Returns:
        Scalar in [0, 100].

    Raises:
        BadInputError: k below 1 or not below C, or shapes that do not fit.

    >>> float(topk_accuracy(jnp.array([[0.1, 0.9], [0.5, 0.5]]), jnp.array([1, 0])))
    50.0
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise BadInputError(f"logits {logits.shape} and labels {labels.shape} must be [B, C] and [B].")
    classes = logits.shape[1]
    if not 1 <= k < classes:
        raise BadInputError(f"k={k}: give at least 1 and less than the number of classes, {classes}.")
    is_label = labels[:, None] == jnp.arange(classes)[None, :]
    own = jnp.max(jnp.where(is_label, logits, -jnp.inf), axis=1, keepdims=True)
    # not (a < b) rather than a >= b: a NaN on either side must count against the row
    reached = jnp.sum(~(logits < own) & ~is_label, axis=1)
    return 100 * jnp.mean(jnp.where(reached < k, 1.0, 0.0))


def _replicated(x: Any) -> Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.reshard(x, P())
