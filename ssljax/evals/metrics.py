"""GLUE's metrics, each over a whole set, in per cent."""

import numpy as np

from ssljax.types import BadInputError


def accuracy(predictions, labels) -> float:
    """The share of right answers.

    Args:
        predictions: int[N].
        labels: int[N].

    Returns:
        0 to 100.

    Raises:
        BadInputError: different lengths, or nothing in them.

    >>> accuracy([1, 0, 1, 1], [1, 1, 1, 1])
    75.0
    """
    predictions, labels = _pair(predictions, labels)
    return 100 * float(np.mean(predictions == labels))


def f1(predictions, labels, positive: int = 1) -> float:
    """The harmonic mean of precision and recall of one class.

    Args:
        predictions: int[N].
        labels: int[N].
        positive: the class.

    Returns:
        0 to 100; 0 where the class neither occurs nor is predicted.

    Raises:
        BadInputError: different lengths, or nothing in them.

    >>> f1([1, 1, 1, 1], [1, 1, 1, 0]) == 100 * 6 / 7
    True
    """
    predictions, labels = _pair(predictions, labels)
    predicted, true = predictions == positive, labels == positive
    both = int(np.sum(predicted & true))
    return 200 * both / max(int(predicted.sum() + true.sum()), 1)


def macro_f1(predictions, labels) -> float:
    """The mean of the classes' `f1`, over those that occur or are predicted.

    Args:
        predictions: int[N].
        labels: int[N].

    Returns:
        0 to 100.

    Raises:
        BadInputError: different lengths, or nothing in them.

    >>> round(macro_f1([0, 0, 1, 1], [0, 0, 1, 2]), 1)
    55.6
    """
    predictions, labels = _pair(predictions, labels)
    classes = np.union1d(predictions, labels)
    return float(np.mean([f1(predictions, labels, positive) for positive in classes]))


def matthews(predictions, labels) -> float:
    """Matthews' correlation of two classifications of any number of classes.

    Args:
        predictions: int[N].
        labels: int[N].

    Returns:
        -100 to 100; 0 where either names one class only.

    Raises:
        BadInputError: different lengths, or nothing in them.

    Reference: the R_K statistic of Gorodkin, 2004, as GLUE takes it from scikit-learn (arXiv 1804.07461, section 3.1).

    >>> round(matthews([0, 0, 1, 1], [0, 0, 1, 1]), 6), matthews([1, 1], [0, 1])
    (100.0, 0.0)
    """
    predictions, labels = _pair(predictions, labels)
    classes = np.union1d(predictions, labels)
    # correlation of the one-hot encodings, summed over the classes
    x, y = ((values[:, None] == classes[None]).astype(np.float64) for values in (predictions, labels))
    return _correlation(x, y)


def pearson(predictions, labels) -> float:
    """The linear correlation of two rows of numbers.

    Args:
        predictions: float[N].
        labels: float[N].

    Returns:
        -100 to 100; 0 where either is constant, NaN where a number is not finite.

    Raises:
        BadInputError: different lengths, or nothing in them.

    >>> round(pearson([1, 2, 3], [10, 20, 30]), 6), pearson([1, 1, 1], [1, 2, 3])
    (100.0, 0.0)
    """
    predictions, labels = _pair(predictions, labels)
    return _correlation(predictions.astype(np.float64)[:, None], labels.astype(np.float64)[:, None])


def spearman(predictions, labels) -> float:
    """The correlation of the ranks of two rows of numbers; equal numbers share their mean rank.

    Args:
        predictions: float[N].
        labels: float[N].

    Returns:
        -100 to 100; 0 where either is constant, NaN where a number is not finite.

    Raises:
        BadInputError: different lengths, or nothing in them.

    >>> round(spearman([1, 10, 100], [1, 2, 3]), 6)
    100.0
    """
    predictions, labels = _pair(predictions, labels)
    if not np.isfinite(predictions).all() or not np.isfinite(labels).all():
        return float("nan")
    return pearson(_ranks(predictions), _ranks(labels))


def _pair(predictions, labels) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or len(labels) == 0:
        raise BadInputError(
            f"{predictions.shape} predictions for {labels.shape} labels; give one of each for one row or more."
        )
    return predictions, labels


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if not (np.ptp(x, 0).any() and np.ptp(y, 0).any()):  # the mean of equal numbers is not quite one of them
        return 0.0
    x, y = x - x.mean(0, keepdims=True), y - y.mean(0, keepdims=True)
    scale = np.sqrt(np.sum(x * x)) * np.sqrt(np.sum(y * y))
    return float(np.clip(100 * np.sum(x * y) / scale, -100, 100))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
