"""How few labels the features need: stratified subsets and the accuracy with a handful of labels a class."""

import numpy as np

from ssljax.evals.features import check_features, check_labels
from ssljax.evals.logistic import quick_probe
from ssljax.evals.rows import timed
from ssljax.types import BadInputError


def per_class_subset(labels, n: int, seed: int) -> np.ndarray:
    """`n` random rows of each class, without repeats.

    Args:
        labels: int[N].
        n: rows of each class that occurs in `labels`.
        seed: seed of the draw.

    Returns:
        int[n * classes], in increasing order.

    Raises:
        BadInputError: no labels, n < 1, or a class with fewer than n rows.

    >>> labels = np.array([0, 1, 0, 1, 0, 1])
    >>> sorted(labels[per_class_subset(labels, 2, seed=0)].tolist())
    [0, 0, 1, 1]
    """
    labels = _one_dimensional(labels)
    if n < 1:
        raise BadInputError(f"n={n}: give at least 1 label a class.")
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < n:
        few = classes[counts.argmin()]
        raise BadInputError(f"n={n}: Class {few} has {counts.min()} labelled rows; give a smaller n.")
    return _draw(labels, dict.fromkeys(classes.tolist(), n), seed)


def fraction_subset(labels, fraction: float, seed: int) -> np.ndarray:
    """A random share of every class: the 1 % and 10 % of semi-supervised evaluation.

    Args:
        labels: int[N].
        fraction: share of each class, above 0 and at most 1; rounded to whole rows, at least one.
        seed: seed of the draw.

    Returns:
        Increasing row indices.

    Raises:
        BadInputError: no labels, or a fraction outside (0, 1].

    Reference:
        SimCLR arXiv 2002.05709, section 6 (1 % and 10 % of ImageNet's labels, class-balanced).

    Differs from the paper:
        SimCLR's own lists of images are in tfds as `imagenet2012_subset`; this draws others of the same kind.
    """
    labels = _one_dimensional(labels)
    if not 0 < fraction <= 1:
        raise BadInputError(f"fraction={fraction}: give a share of the labels above 0 and at most 1, such as 0.01.")
    classes, counts = np.unique(labels, return_counts=True)
    wanted = np.maximum(1, np.rint(fraction * counts).astype(int))
    return _draw(labels, dict(zip(classes.tolist(), wanted.tolist(), strict=True)), seed)


def smallest_class(labels) -> int:
    """Rows of the class that has fewest: what `per_class` of `few_label_accuracy` may be at most.

    Args:
        labels: int[N].

    Raises:
        BadInputError: no labels.

    >>> smallest_class([0, 7, 0, 7, 7])
    2
    """
    return int(np.unique(_one_dimensional(labels), return_counts=True)[1].min())


@timed("linear probes on a few labels a class")
def few_label_accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    num_classes: int,
    per_class: int = 10,
    draws: int = 5,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation of `quick_probe` on a few labels a class, over several draws.

    In each draw everything, the standardisation and the L2 strength included, comes from the drawn rows
    alone: the strength by five-fold cross-validation (the middle of the grid with one label a class).

    Args:
        train_features: float[N, D].
        train_labels: int[N] in [0, num_classes).
        test_features: float[M, D].
        test_labels: int[M].
        num_classes: the number of classes.
        per_class: labels of each class in a draw; `smallest_class` at most.
        draws: at least 2; draw i uses the seed `seed + i`.
        seed: seed of the first draw.

    Returns:
        Mean accuracy and the draws' standard deviation (divided by draws - 1), per cent.

    Raises:
        BadInputError: fewer than 2 draws, too few rows of a class, or as in `quick_probe`.
    """
    if draws < 2:
        raise BadInputError(f"draws={draws}: give at least 2 for a standard deviation.")
    features = check_features("train_features", train_features)
    labels = check_labels("train_labels", train_labels, len(features), num_classes)
    accuracies = []
    for draw in range(seed, seed + draws):
        rows = per_class_subset(labels, per_class, draw)
        accuracies.append(
            quick_probe(
                features[rows],
                labels[rows],
                test_features,
                test_labels,
                num_classes=num_classes,
                folds=5,
                seed=draw,
            )
        )
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))


def _one_dimensional(labels) -> np.ndarray:
    if labels is None or np.ndim(labels) != 1 or len(labels) == 0:
        raise BadInputError("labels: a subset by class needs a label for every row; give int[N].")
    return np.asarray(labels)


def _draw(labels, wanted: dict[int, int], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    drawn = [random.choice(np.flatnonzero(labels == label), n, replace=False) for label, n in wanted.items()]
    return np.sort(np.concatenate(drawn))
