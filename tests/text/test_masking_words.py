"""Masking of whole words: the official grouping, and greedily as many words as fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.text.masking import _first_fits
from tests.text.test_masking import CASES, CONTINUES, SPECIAL, a_batch, a_masking, run, wanted


def words_of(tokens, length):
    """The official grouping: a continuation joins the word before it, over special tokens too."""
    words = []
    for at in range(length):
        if tokens[at] in SPECIAL:
            continue
        if words and CONTINUES[tokens[at]]:
            words[-1].append(at)
        else:
            words.append([at])
    return words


@pytest.mark.parametrize("seed", range(3))
def test_whole_words_are_predicted_whole_and_as_many_as_fit(seed):
    masking, batch = a_masking(**CASES["whole words"]), a_batch(seed, 32)
    out = run(masking, batch, seed)
    left_over = 0
    for i, length in enumerate(batch["lengths"]):
        predicted = set(out["positions"][i][out["weights"][i] > 0].tolist())
        words = words_of(batch["tokens"][i], length)
        room = wanted(length, 0.3, 6) - len(predicted)
        assert room >= 0
        for word in words:
            assert len(predicted & set(word)) in (0, len(word))
        assert all(len(word) > room for word in words if word[0] not in predicted)
        left_over += room
    assert left_over > 0


def test_a_word_too_long_for_the_number_is_passed_over():
    batch = a_batch(0, 64, 12)
    # words of 1, 4 and 1 pieces: two predictions can only be the single ones
    batch["tokens"] = np.tile(np.array([2, 6, 9, 8, 8, 8, 9, 3, 0, 0, 0, 0], np.int32), (64, 1))
    batch["lengths"] = np.full(64, 8, np.int32)
    masking = a_masking(whole_word=True, continuation=CONTINUES, share=0.25, max_predictions=2)
    np.testing.assert_array_equal(run(masking, batch)["positions"], np.tile([1, 6], (64, 1)))


@pytest.mark.parametrize("seed", range(3))
def test_rounds_take_what_going_one_by_one_takes(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        sizes, room = rng.integers(0, 9, 30), int(rng.integers(1, 25))
        taken, left = np.zeros(30, bool), room
        for at, size in enumerate(sizes):
            if 0 < size <= left:
                taken[at], left = True, left - size
        np.testing.assert_array_equal(jax.jit(_first_fits)(jnp.asarray(sizes), room), taken)
