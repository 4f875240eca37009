"""Baselines of fine-tuning: a constant answer, and a linear model of which words occur."""

from typing import Any, Literal

import numpy as np

from ssljax.types import BadInputError

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # candidates for C of the logistic, 1/alpha of the ridge regression


def constant(labels, rows: int, outputs: int) -> np.ndarray:
    """The outputs of a model that always answers the most frequent class, or with one output the mean.

    Args:
        labels: int[N] classes or float[N] numbers of the training rows.
        rows: number of answers.
        outputs: C, the number of classes; 1 for regression.

    Returns:
        float32[rows, C], 1 for the class and 0 for others, the smallest of equally frequent ones; or the mean.

    >>> constant([2, 0, 2], 1, 3).tolist()
    [[0.0, 0.0, 1.0]]
    """
    labels = np.asarray(labels)
    if outputs == 1:
        return np.full((rows, 1), labels.mean(), np.float32)
    answer = np.bincount(labels, minlength=outputs).argmax()
    return np.tile(np.eye(outputs, dtype=np.float32)[answer], (rows, 1))


def constant_loss(train: dict[str, np.ndarray], kind: Literal["classification", "regression", "span"]) -> float:
    """The lowest training loss of a model that does not look at its input.

    Args:
        train: label as in `finetune`, and for "span" lengths.
        kind: as in `finetune`.

    Returns:
        The labels' entropy in nats; their variance; for "span" the mean logarithm of the length.
    """
    if kind == "span":
        return float(np.log(train["lengths"]).mean())
    if kind == "regression":
        return float(np.var(train["label"], dtype=np.float64))
    _, counts = np.unique(train["label"], return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def bag_of_words(train: Any, dev: Any, classes: int, seed: int = 0) -> np.ndarray:
    """Logistic (or ridge) regression on which words and pairs of neighbouring words occur.

    The weights are TF-IDF's with logarithmic counts; of a pair of sentences each has columns of its own, and further
    ones say which words both have. The strength of the L2 penalty is the best on a fifth of the training rows.

    Args:
        train: `text_tasks.Examples`, N of them.
        dev: `text_tasks.Examples`, M of them.
        classes: C; 1 for regression.
        seed: seed of the fifth.

    Returns:
        float32[M, C], log-probabilities; [M, 1] numbers for regression.

    Raises:
        BadInputError: the training rows have one class only, or there are fewer than 10.
    """
    labels = np.asarray(train.labels)
    if len(labels) < 10 or (classes > 1 and len(np.unique(labels)) < 2):
        raise BadInputError(f"bag of words: {len(labels)} training rows of one class; give 10 of two or more.")
    seen, unseen = _word_features(train, dev)
    fifth = np.random.default_rng(seed).permutation(len(labels)) % 5 == 0
    scores = []
    for strength in STRENGTHS:
        found = _fit(seen[~fifth], labels[~fifth], seen[fifth], classes, strength)
        right = found.argmax(1) == labels[fifth] if classes > 1 else -np.square(found[:, 0] - labels[fifth])
        scores.append(right.mean())
    return _fit(seen, labels, unseen, classes, STRENGTHS[int(np.argmax(scores))])


def _word_features(train: Any, dev: Any) -> tuple[Any, Any]:
    """Sparse [N, D] and [M, D]."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    words: dict[str, Any] = {"token_pattern": r"\w+|[^\w\s]", "sublinear_tf": True}
    parts: list[tuple[Any, Any]] = []
    for column in (0, 1) if train.second is not None else (0,):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), **words)
        parts.append((vectorizer.fit_transform(train[column]), vectorizer.transform(dev[column])))
    if train.second is not None:
        vectorizer = TfidfVectorizer(**words).fit([*train.first, *train.second])
        shared = [_in_both(vectorizer, examples) for examples in (train, dev)]
        parts.append((shared[0], shared[1]))
    seen, unseen = zip(*parts, strict=True)
    return hstack(seen).tocsr(), hstack(unseen).tocsr()


def _in_both(vectorizer: Any, examples: Any) -> Any:
    return vectorizer.transform(examples.first).multiply(vectorizer.transform(examples.second))


def _fit(seen: Any, labels: np.ndarray, unseen: Any, classes: int, strength: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression, Ridge

    if classes == 1:
        return Ridge(alpha=1 / strength).fit(seen, labels).predict(unseen)[:, None].astype(np.float32)
    model = LogisticRegression(C=strength, max_iter=1000).fit(seen, labels)
    found = np.full((unseen.shape[0], classes), -np.inf, np.float32)
    found[:, model.classes_] = model.predict_log_proba(unseen)
    return found
