from collections import Counter

import numpy as np
import pytest

from ssljax.text import ngrams
from ssljax.types import BadInputError


@pytest.mark.parametrize(("size", "length", "seed"), [(3, 50, 0), (7, 400, 1), (50, 300, 2)])
def test_against_counters(size, length, seed):
    tokens = np.random.default_rng(seed).integers(0, size, length) ** 2 // size
    words = Counter(tokens.tolist())
    common = min(words, key=lambda word: (-words[word], word))
    assert ngrams.unigram(tokens, size) == common
    pairs = Counter(zip(tokens.tolist(), tokens[1:].tolist(), strict=False))
    for word in range(size):
        after = {b: count for (a, b), count in pairs.items() if a == word}
        best = min(after, key=lambda b: (-after[b], b)) if after else common
        assert ngrams.bigram(tokens, size)[word] == best


def test_accuracies_skip_empty_slots():
    text = np.array([1, 2, 1, 2, 1, 3, 1])
    before, targets = np.array([[1, 1], [2, 0]]), np.array([[2, 3], [1, 1]])
    weights = np.array([[1.0, 1.0], [1.0, 0.0]])
    found = ngrams.ngram_accuracies(text, 4, before, targets, weights)
    assert found == pytest.approx({"unigram": 100 / 3, "bigram": 200 / 3})


def test_no_text_is_refused():
    with pytest.raises(BadInputError, match="shape"):
        ngrams.unigram(np.zeros(0, int), 3)
