"""Baselines of masked words: the most frequent word, and the most frequent successor of the word before."""

import numpy as np

from ssljax.types import BadInputError


def unigram(tokens, vocabulary_size: int) -> int:
    """The most frequent id of int[N] `tokens`; the smallest of several.

    >>> unigram(np.array([3, 1, 3]), 5)
    3
    """
    return int(np.bincount(_checked(tokens), minlength=vocabulary_size).argmax())


def bigram(tokens, vocabulary_size: int) -> np.ndarray:
    """The most frequent successor of each word.

    Args:
        tokens: int[N], running text.
        vocabulary_size: V; ids lie below it.

    Returns:
        int64[V]; the most frequent word of all where a word never occurs before another, and the smallest id of
        several that are equally frequent.

    Raises:
        BadInputError: no text.

    >>> bigram(np.array([0, 1, 2, 1, 2, 0]), 4).tolist()
    [1, 2, 0, 0]
    """
    tokens = _checked(tokens)
    best = np.full(vocabulary_size, unigram(tokens, vocabulary_size), np.int64)
    pairs = tokens[:-1].astype(np.int64) * vocabulary_size + tokens[1:]
    pairs, counts = np.unique(pairs, return_counts=True)
    order = np.lexsort((-pairs, counts))  # the most frequent is written last, of several the smallest
    best[pairs[order] // vocabulary_size] = pairs[order] % vocabulary_size
    return best


def ngram_accuracies(train_tokens, vocabulary_size: int, before, targets, weights) -> dict[str, float]:
    """Per cent of masked words that either baseline fills in.

    Args:
        train_tokens: int[N], the text to count.
        vocabulary_size: ids lie below it.
        before: int[...], the true word before each masked one, even where it is masked as well: that is more than a
            model sees.
        targets: int[...], the masked words.
        weights: [...], 0 for slots that hold none.

    Returns:
        `{"unigram": per cent, "bigram": per cent}`.
    """
    known = np.asarray(weights) > 0
    before, targets = np.asarray(before)[known], np.asarray(targets)[known]
    successors = bigram(train_tokens, vocabulary_size)
    return {
        "unigram": 100 * float(np.mean(targets == unigram(train_tokens, vocabulary_size))),
        "bigram": 100 * float(np.mean(targets == successors[before])),
    }


def _checked(tokens) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not len(tokens):
        raise BadInputError(f"The text to count has shape {tokens.shape}; give a line of at least one word id.")
    return tokens
