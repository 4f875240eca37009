"""Cross-entropies of classes chosen from logits: of masked tokens, of the next sentence, of labels."""

import jax
import jax.numpy as jnp

from ssljax.types import Array, BadInputError

NO_PREDICTIONS = 1e-5


def masked_cross_entropy(logits: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Masked-language-model loss: the mean over all real predictions of the global batch, not a mean of means.

    Args:
        logits: [B, P, V], scores of the vocabulary at the masked positions.
        targets: int[B, P], the original words, 0 included.
        weights: [B, P], 1 for a prediction, 0 for an empty slot, whose target is ignored.

    Returns:
        `sum(weights * nll) / (sum(weights) + 1e-5)` in nats and the weighted per cent of right first guesses;
        float32, both 0 without predictions. A target outside [0, V) in a slot of weight above 0 makes the loss NaN.

    Raises:
        BadInputError: shapes that do not fit.

    Reference: arXiv 1810.04805, section 3.1; google-research/bert `run_pretraining.py`.

    >>> logits = jnp.zeros((1, 2, 4)).at[0, 0, 3].set(9.0)
    >>> loss, accuracy = masked_cross_entropy(logits, jnp.array([[3, 0]]), jnp.array([[1.0, 0.0]]))
    >>> round(float(loss), 4), round(float(accuracy))
    (0.0004, 100)
    """
    if logits.ndim != 3 or targets.shape != logits.shape[:2] or weights.shape != logits.shape[:2]:
        raise BadInputError(
            f"logits {logits.shape}, targets {targets.shape} and weights {weights.shape} must be [B, P, V], [B, P] "
            "and [B, P]."
        )
    nll, right = _scores(logits, targets)
    weights = weights.astype(jnp.float32)
    total = jnp.sum(weights)
    loss = _weighted_sum(weights, nll) / (total + NO_PREDICTIONS)
    return loss, 100 * _weighted_sum(weights, right) / jnp.where(total > 0, total, 1.0)


def next_sentence(logits: Array, is_random: Array) -> tuple[Array, Array]:
    """Next-sentence loss: is the second segment a random one?

    Args:
        logits: [B, 2], scores of 0, the next sentence, and 1, a random one.
        is_random: int[B], 0 or 1.

    Returns:
        The mean cross-entropy in nats and the per cent of right guesses, float32.

    Raises:
        BadInputError: shapes that do not fit.

    Reference: arXiv 1810.04805, section 3.1; google-research/bert `run_pretraining.py`.
    """
    if logits.ndim != 2 or logits.shape[1] != 2 or is_random.shape != logits.shape[:1]:
        raise BadInputError(f"logits {logits.shape} and is_random {is_random.shape} must be [B, 2] and [B].")
    nll, right = _scores(logits, is_random)
    return jnp.mean(nll), 100 * jnp.mean(right)


def cross_entropy(logits: Array, labels: Array, weights: Array | None = None) -> Array:
    """Softmax cross-entropy, averaged over the batch.

    Args:
        logits: [B, C].
        labels: int[B] in [0, C).
        weights: [B], 0 for rows that only fill the batch; None counts every row alike.

    Returns:
        `sum(weights * nll) / sum(weights)` in nats, float32; 0 where all weights are 0, NaN for a weighted label
        outside [0, C).

    Raises:
        BadInputError: shapes that do not fit.

    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
    1.3863
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or (weights is not None and weights.shape != labels.shape):
        given = "" if weights is None else f" and weights {weights.shape}"
        raise BadInputError(f"logits {logits.shape}, labels {labels.shape}{given} must be [B, C], [B] and [B].")
    nll, _ = _scores(logits, labels)
    if weights is None:
        return jnp.mean(nll)
    weights = weights.astype(jnp.float32)
    total = jnp.sum(weights)
    return _weighted_sum(weights, nll) / jnp.where(total > 0, total, 1.0)


def _scores(logits, labels):
    """Negative log-likelihoods of the labels, and 1 where the label is the best (the first of equals)."""
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    ids = jnp.arange(classes).reshape((1,) * labels.ndim + (classes,))
    # a sum over a mask, not a gather: it fuses, and it does not move a sharded batch
    own = jnp.sum(jnp.where(labels[..., None] == ids, logits, 0.0), axis=-1)
    own = jnp.where((labels >= 0) & (labels < classes), own, jnp.nan)
    # the first of the best, as argmax, which is several times slower on CPUs
    best = jnp.max(logits, axis=-1, keepdims=True)
    right = jnp.min(jnp.where(logits >= best, ids.astype(jnp.float32), classes), axis=-1) == labels
    return jax.nn.logsumexp(logits, axis=-1) - own, right.astype(jnp.float32)


def _weighted_sum(weights, values):
    # an empty slot may hold anything: 0 * NaN would be NaN
    return jnp.sum(jnp.where(weights > 0, weights * values, 0.0))
