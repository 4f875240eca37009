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


def alpha_req(z: Array, ranks: tuple[int, int] = (6, 100)) -> Array:
    """Exponent of the power law by which the eigenvalues of the embeddings' covariance decay; near 1 is best.

    A line through the logarithms of rank and eigenvalue, each point weighted by 1 / rank, as many in an octave count as
    much as the few in the one before. Eigenvalues within rounding of zero (for B rows those from rank B on) are left
    out, and where fewer than three are left from `ranks[0]` on, the fit starts at rank 1.

    Args:
        z: [B, D], B > 2 and D > 1, not normalised; centred here.
        ranks: the first and the last rank of the fit, from 1.

    Returns:
        Scalar; 0 for a flat spectrum, larger for a faster decay, infinity where fewer than two eigenvalues are above
        rounding: equal rows, or rows along one direction. NaN where `z` holds NaN.

    Raises:
        BadInputError: fewer than three rows or two columns, or `ranks` that are not 1 <= first < last.

    Reference: arXiv 2202.05808, section 3; weights and ranks of `alpha.py` in arnab39/reptrix, an author's code.

    Differs from the paper:
        The official code fits ranks that rounding alone decides, and has no answer for fewer than six eigenvalues.
    """
    rows, width = z.shape
    first, last = ranks
    if rows < 3 or width < 2:
        raise BadInputError(f"alpha_req of shape {z.shape}: give at least three rows of two columns.")
    if not 1 <= first < last:
        raise BadInputError(f"ranks={ranks}: give a first rank from 1 on and a later last one.")
    wide, rounding = _with_rounding(z)
    wide = wide - wide[:1]  # equal rows become exactly zero, which their mean would not leave
    singular = jnp.linalg.svd(wide - jnp.mean(wide, axis=0, keepdims=True), compute_uv=False)
    floor = rounding + 4 * jnp.finfo(wide.dtype).eps * singular[0]
    usable = ~(singular <= floor)  # not >: NaN must stay in the fit
    rank = jnp.arange(1, len(singular) + 1, dtype=wide.dtype)
    later = usable & (rank >= first) & (rank <= last)
    fitted = jnp.where(jnp.sum(later) >= 3, later, usable & (rank <= last))
    weight = jnp.where(fitted, 1 / rank, 0.0)
    weight = weight / jnp.maximum(jnp.sum(weight), 1e-6)
    x, y = jnp.log(rank), 2 * jnp.log(jnp.where(usable, singular, 1.0))
    x = x - jnp.sum(weight * x)
    slope = jnp.sum(weight * x * y) / jnp.where(jnp.sum(fitted) > 1, jnp.sum(weight * x * x), 1.0)
    return jnp.where(jnp.sum(fitted) > 1, -slope, jnp.inf)


def lidar(z: Array, delta: float = 1e-4, eps: float = 1e-7) -> Array:
    """Effective rank of what tells pictures apart: of the spread of their means, in units of the spread of their views.

    With Sigma_b the covariance of the n means and Sigma_w the mean covariance of a picture's views plus `delta`, exp of
    the entropy of the normalised eigenvalues of Sigma_w^-1/2 Sigma_b Sigma_w^-1/2. Both are unbiased (divided by n - 1
    and n (q - 1)). They come from the singular values of the rows themselves, not from a [D, D] matrix.

    Args:
        z: [n, q, D], n pictures in q > 1 views each, not normalised; the paper uses n = 1000, q = 50.
        delta: added to the diagonal of Sigma_w.
        eps: added to each normalised eigenvalue.

    Returns:
        Scalar between 1 (one direction, or means equal up to rounding) and min(n, D); about n - 1 at most, since
        the means are centred. NaN where `z` holds NaN.

    Raises:
        BadInputError: another rank, fewer than two pictures or two views, or delta <= 0.

    Reference: arXiv 2312.04000, where LiDAR is defined. The divisors of both covariances are those of common
        re-implementations, `eps` is RankMe's.
    """
    if z.ndim != 3 or min(z.shape[:2]) < 2:
        raise BadInputError(f"lidar of shape {z.shape}: give [n, q, D] with at least two pictures in two views each.")
    if delta <= 0:
        raise BadInputError(f"delta={delta}: give a number above 0.")
    count, views, width = z.shape
    wide, rounding = _with_rounding(z)
    wide = wide - wide[:1, :1]
    means = jnp.mean(wide, axis=1)
    within = (wide - means[:, None]).reshape(count * views, width) / (count * (views - 1)) ** 0.5
    between = (means - jnp.mean(means, axis=0, keepdims=True)) / (count - 1) ** 0.5
    # QR first: the same singular values and right vectors without n q left ones
    _, scale, axes = jnp.linalg.svd(jnp.linalg.qr(within, mode="r"), full_matrices=False)
    along = _precise(between, axes.T)
    whitened = _precise(along / jnp.sqrt(scale**2 + delta)[None, :], axes)
    if len(scale) < width:  # directions without any spread of views
        whitened = whitened + (between - _precise(along, axes)) / delta**0.5
    singular = jnp.linalg.svd(whitened, compute_uv=False)
    eigenvalues = jnp.where(singular <= rounding / ((count - 1) * delta) ** 0.5, 0.0, singular) ** 2
    share = eigenvalues / jnp.maximum(jnp.sum(eigenvalues), jnp.finfo(wide.dtype).tiny) + eps
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


def _with_rounding(z: Array) -> tuple[Array, Array]:
    """All rows in float32 or wider, and the largest singular value that the rounding of rows as these amounts to."""
    wide = _replicated(z).astype(jnp.promote_types(z.dtype, jnp.float32))
    rows = wide.size // wide.shape[-1]
    return wide, 4 * jnp.finfo(z.dtype).eps * max(rows, wide.shape[-1]) ** 0.5 * jnp.max(jnp.abs(wide))


def _precise(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _replicated(x: Any) -> Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.reshard(x, P())
