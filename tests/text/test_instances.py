"""Instances: what must hold for each, what is drawn evenly, what is refused."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.text.corpus import hold_out
from ssljax.text.instances import _truncated, assemble, plan
from ssljax.types import BadInputError
from tests.text import reference
from tests.text.corpora import FIRST, corpus_of, document_of, random_corpus

DOCUMENTS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=2, max_size=8)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.integers(5, 80), st.integers(0, 10**6), st.integers(0, 30), st.sampled_from([0.0, 0.1, 1.0]))
def test_structure(documents, length, seed, epoch, short_share):
    corpus = corpus_of(documents)
    rows = plan(corpus, length=length, seed=seed, epoch=epoch, short_share=short_share)
    boundaries = set(corpus.sentences.tolist())
    a_start, a_stop, b_start, b_stop, is_random = rows.T
    room = length - 3
    assert (a_start < a_stop).all()
    assert (b_start < b_stop).all()
    sizes = a_stop - a_start + b_stop - b_start
    assert (sizes <= room).all()
    of_a, of_b = (document_of(corpus, range_) for range_ in (a_start, b_start))
    # ranges stay within their document
    assert (of_a == document_of(corpus, a_stop - 1)).all()
    assert (of_b == document_of(corpus, b_stop - 1)).all()
    assert ((of_a != of_b) == (is_random == 1)).all()
    for a0, a1, b0, b1, random_b in rows.tolist():
        whole = {a0, a1, b0, b1} <= boundaries
        cut = a1 - a0 + b1 - b0 == room
        # what is not cut is made of whole sentences, and a next B follows at once
        assert whole or cut
        if not random_b:
            assert a1 == b0 or (cut and any(a1 <= place <= b0 for place in boundaries))
    # every document is walked through once, without a gap other than what truncation took
    for number, (first, stop) in enumerate(corpus.documents.tolist()):
        place = corpus.sentences[first]
        for a0, a1, b0, b1, random_b in rows[of_a == number].tolist():
            cut = a1 - a0 + b1 - b0 == room
            assert a0 == place or (a0 >= place and cut) or place == -1
            uncut = not cut
            place = (a1 if random_b else b1) if uncut else -1
        assert place in (corpus.sentences[stop], -1)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS, st.integers(5, 80), st.integers(0, 10**6))
def test_assembled(documents, length, seed):
    corpus = corpus_of(documents)
    rows = plan(corpus, length=length, seed=seed, epoch=0)
    batch = assemble(corpus, rows, length)
    words = corpus.vocabulary
    assert all(values.dtype == np.int32 for values in batch.values())
    assert batch["tokens"].shape == batch["segments"].shape == (len(rows), length)
    for k, (a0, a1, b0, b1, random_b) in enumerate(rows.tolist()):
        a, b = (list(range(FIRST + start, FIRST + stop)) for start, stop in ((a0, a1), (b0, b1)))
        filled = [words.cls, *a, words.sep, *b, words.sep]
        padding = [0] * (length - len(filled))
        assert batch["tokens"][k].tolist() == filled + padding
        assert batch["segments"][k].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + padding
        assert (batch["lengths"][k], batch["is_random"][k]) == (len(filled), random_b)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 200), st.integers(0, 10**6))
def test_truncation_leaves_what_the_literal_loop_leaves(a, b, room, seed):
    rng = random.Random(seed)
    left, right = list(range(a)), list(range(b))
    reference.shorten(left, right, room, rng)
    a0, a1, b0, b1 = _truncated(0, a, 1000, 1000 + b, room, lambda: rng.getrandbits(64))
    assert (a1 - a0, b1 - b0) == (len(left), len(right))
    assert 0 <= a0 < a1 <= a
    assert 1000 <= b0 < b1 <= 1000 + b


def test_truncation_is_a_coin_a_token():
    """10,000 times 150 coins: the mean's standard error is 0.06 and a mean off by 0.4 (0.3 %) would be seen."""
    rng = random.Random(0)
    fronts = np.array([_truncated(0, 200, 0, 50, 100, lambda: rng.getrandbits(64))[0] for _ in range(10_000)])
    assert abs(fronts.mean() - 75) < 0.25
    assert abs(fronts.var() / (150 / 4) - 1) < 0.06  # binomial, not all at one side


def test_targets():
    """A tenth of documents are short, with any target alike: 25,000 draws, so a share off by 0.012 is seen in 98 %."""
    corpus = corpus_of([[1] * 40] * 500)
    goals = []
    for epoch in range(100):
        rows = plan(corpus, length=33, seed=0, epoch=epoch)
        # sentences of one token: a document's first chunk has as many as its target
        first = rows[np.isin(rows[:, 0], corpus.sentences[corpus.documents[:, 0]]) & (rows[:, 4] == 0)]
        goals.append(first[:, 3] - first[:, 0])
    counts = np.bincount(np.concatenate(goals), minlength=31)
    draws = counts.sum()
    assert draws > 24_000
    assert counts[:2].sum() == counts[31:].sum() == 0
    assert abs(counts[2:30].sum() / draws - 0.1 * 28 / 29) < 0.0085
    even = draws * 0.1 / 29
    # chi-square with 28 degrees of freedom is over 64.3 once in 10,000 times
    assert ((counts[2:30] - even) ** 2 / even).sum() < 64.3


def test_another_document_is_any_other_one_equally_often():
    """10,000 draws for each document; a standard error is 0.0043, so a share off by 0.03 is seen in 98 %."""
    corpus = corpus_of([[5]] * 5)
    rows = np.concatenate([plan(corpus, length=32, seed=0, epoch=epoch) for epoch in range(10_000)])
    pairs = np.stack([rows[:, 0] // 5, rows[:, 2] // 5])
    for document in range(5):
        counts = np.bincount(pairs[1, pairs[0] == document], minlength=5)
        assert counts[document] == 0
        np.testing.assert_allclose(np.delete(counts, document) / 10_000, 1 / 4, atol=0.02)


def test_a_plan_is_a_function_of_its_arguments():
    corpus = random_corpus(30, seed=2)
    rows, again = (plan(corpus, length=64, seed=3, epoch=4) for _ in range(2))
    np.testing.assert_array_equal(rows, again)
    for other in ({"seed": 4}, {"epoch": 5}, {"length": 65}, {"short_share": 0.9}):
        options: dict[str, Any] = {"length": 64, "seed": 3, "epoch": 4} | other
        assert not np.array_equal(rows, plan(corpus, **options))


def test_a_plan_is_the_same_in_every_version():
    """Recorded on 2026-11-23: a resumed run must meet the same instances after libraries were updated."""
    rows = plan(corpus_of([[3, 9, 4, 7], [6, 2, 8], [5, 5]]), length=16, seed=0, epoch=0)
    assert rows.tolist() == [
        [1, 9, 44, 49, 1],
        [12, 16, 16, 23, 0],
        [23, 29, 40, 47, 1],
        [29, 31, 31, 39, 0],
        [39, 44, 4, 12, 1],
        [44, 49, 1, 9, 1],
    ]


def test_held_out_documents_are_a_corpus_of_their_own():
    train, held_out = hold_out(random_corpus(30, seed=2), every=5)
    for part in (train, held_out):
        rows = plan(part, length=64, seed=0, epoch=0)
        spans = part.sentences[part.documents]
        for start, stop in ((rows[:, 0], rows[:, 1]), (rows[:, 2], rows[:, 3])):
            inside = (spans[:, :1] <= start) & (stop <= spans[:, 1:])
            assert inside.any(axis=0).all()


@pytest.mark.parametrize(
    ("documents", "length", "seed", "sentence"),
    [
        ([[3, 4]], 16, 0, "1 document"),
        ([[3], [4]], 4, 0, "length=4"),
        ([[3], [4]], 16, -1, "seed=-1"),
    ],
)
def test_what_is_refused(documents, length, seed, sentence):
    with pytest.raises(BadInputError, match=sentence):
        plan(corpus_of(documents), length=length, seed=seed, epoch=0)
