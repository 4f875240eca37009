"""Masking: the rules of `create_pretraining_data.py` case by case, the shares, the same draws on every mesh."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.text.masking import Masking
from ssljax.types import BadInputError

WORDS, MASK, SPECIAL = 60, 4, (2, 3)
CONTINUES = np.arange(WORDS) % 3 > 0


def a_batch(seed=0, size=8, length=32):
    """Two segments of words 5 and up between [CLS] 2 and [SEP] 3, of random lengths, then padding 0."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, length + 1, size)
    tokens = rng.integers(5, WORDS, (size, length))
    first = rng.integers(2, lengths - 2)
    rows, columns = np.arange(size), np.arange(length)
    tokens[:, 0] = 2
    tokens[rows, first] = tokens[rows, lengths - 1] = 3
    tokens[columns >= lengths[:, None]] = 0
    segments = (columns > first[:, None]) & (columns < lengths[:, None])
    arrays = {"tokens": tokens, "segments": segments, "lengths": lengths, "is_random": rows % 2, "example": rows}
    return {name: array.astype(np.int32) for name, array in arrays.items()} | {"epoch": np.zeros(size, np.int32)}


def a_masking(**changes):
    return Masking(**{"vocab_size": WORDS, "mask_id": MASK, "special_ids": SPECIAL, "max_predictions": 6} | changes)


def run(masking, batch, key=0):
    return jax.tree.map(np.asarray, masking(jax.random.key(key), **sharding.shard_batch(batch)))


def wanted(length, share, most):
    """Python's rounding, as in the official code."""
    return min(most, max(1, round(length * share)))


CASES = {
    "tokens": {},
    "many": {"share": 0.4, "max_predictions": 40},
    "whole words": {"whole_word": True, "continuation": CONTINUES, "share": 0.3},
    "drawn once": {"dupe_factor": 3, "seed": 5},
    "by length": {"max_predictions": ((16, 2), (32, 4), (33, 5))},
}


@pytest.mark.parametrize("length", [16, 33])
@pytest.mark.parametrize("case", ["tokens", "many", "drawn once", "by length"])
def test_what_is_predicted_and_what_is_left(case, length):
    masking, batch = a_masking(**CASES[case]), a_batch(1, 16, length)
    count = masking.predictions(length)
    out = run(masking, batch)
    assert out.keys() == inspect.signature(masking).parameters.keys() - {"key", "example", "epoch"} | {
        "positions",
        "targets",
        "weights",
    }
    for name in ("segments", "lengths", "is_random"):
        np.testing.assert_array_equal(out[name], batch[name])
    assert out["positions"].shape == out["targets"].shape == out["weights"].shape == (16, count)
    assert {str(out[name].dtype) for name in ("tokens", "positions", "targets")} == {"int32"}
    assert out["weights"].dtype == np.float32
    for i, length in enumerate(batch["lengths"]):
        tokens = batch["tokens"][i]
        candidates = [at for at in range(length) if tokens[at] not in SPECIAL]
        predicted = min(wanted(length, masking.share, count), len(candidates))
        np.testing.assert_array_equal(out["weights"][i], np.arange(count) < predicted)
        positions = out["positions"][i, :predicted]
        assert (np.diff(positions) > 0).all()
        assert set(positions) <= set(candidates)
        np.testing.assert_array_equal(out["targets"][i, :predicted], tokens[positions])
        np.testing.assert_array_equal(out["positions"][i, predicted:], 0)
        np.testing.assert_array_equal(out["targets"][i, predicted:], 0)
        others = np.setdiff1d(np.arange(len(tokens)), positions)
        np.testing.assert_array_equal(out["tokens"][i, others], tokens[others])


@pytest.mark.parametrize("share", [0.15, 0.25, 0.5])
def test_the_number_of_predictions_is_pythons_for_every_length(share):
    lengths = np.arange(4, 131)
    batch = a_batch(0, len(lengths), 130)
    tokens = np.where(np.arange(130) < lengths[:, None], 7, 0).astype(np.int32)
    batch |= {"tokens": tokens, "lengths": lengths.astype(np.int32)}
    out = run(a_masking(share=share, max_predictions=40), batch)
    np.testing.assert_array_equal(out["weights"].sum(1), [wanted(int(n), share, 40) for n in lengths])


def test_fewer_candidates_than_wanted():
    batch = a_batch(0, 3, 8)
    batch["tokens"] = np.array([[2, 3, 3, 0, 0, 0, 0, 0], [2, 9, 3, 3, 0, 0, 0, 0], [0] * 8], np.int32)
    batch["lengths"] = np.array([3, 4, 0], np.int32)
    out = run(a_masking(share=1.0), batch)
    np.testing.assert_array_equal(out["weights"].sum(1), [0, 1, 0])
    np.testing.assert_array_equal(out["tokens"][[0, 2]], batch["tokens"][[0, 2]])
    assert (out["positions"][1, 0], out["targets"][1, 0]) == (1, 9)


@functools.cache
def many_masks():
    """The same 40 words (ids 10 to 49 at positions 1 to 40) masked 4000 times."""
    size, length = 4000, 42
    tokens = np.tile(np.array([2, *range(10, 50), 3]), (size, 1))
    ones = np.ones(size, int)
    arrays = {"tokens": tokens, "segments": 0 * tokens, "lengths": length * ones, "is_random": ones}
    arrays |= {"example": np.arange(size), "epoch": 0 * ones}
    batch = {name: array.astype(np.int32) for name, array in arrays.items()}
    return batch, run(a_masking(max_predictions=20), batch, key=3)


def assert_share(found, share, draws):
    """Within four standard deviations."""
    np.testing.assert_allclose(found, share, atol=4 * np.sqrt(share * (1 - share) / draws))


def test_80_10_10_and_random_words_from_the_whole_vocabulary():
    _, out = many_masks()
    real = out["weights"] > 0
    shown = np.take_along_axis(out["tokens"], out["positions"], 1)[real]
    targets = out["targets"][real]
    draws = len(shown)
    assert draws == 4000 * 6
    drawn = (shown != MASK) & (shown != targets)
    # a random word may be [MASK] or the word itself
    assert_share(np.mean(shown == MASK), 0.8 + 0.1 / WORDS, draws)
    assert_share(np.mean(shown == targets), 0.1 + 0.1 / WORDS, draws)
    assert_share(drawn.mean(), 0.1 * (1 - 2 / WORDS), draws)
    counts = np.bincount(shown[drawn], minlength=WORDS)
    assert counts[[0, 1, 2, 3, WORDS - 1]].min() > 0
    outside = np.r_[0:4, 5:10, 50:60]
    assert_share(counts[outside].sum() / draws, 0.1 * len(outside) / WORDS, draws)


def test_every_candidate_is_predicted_as_often():
    _, out = many_masks()
    counts = np.bincount(out["positions"][out["weights"] > 0], minlength=42)
    np.testing.assert_array_equal(counts[[0, 41]], 0)
    expected = 4000 * 6 / 40
    # the sum of 40 squared normal deviations less one: 39 on average, its own deviation about 9
    assert np.sum((counts[1:41] - expected) ** 2 / (expected * (1 - 6 / 40))) < 39 + 5 * 9
    pairs = np.mean([{1, 2} <= set(row) for row in out["positions"]])
    assert_share(pairs, 6 * 5 / (40 * 39), 4000)


@functools.cache
def without_a_mesh(case):
    return run(a_masking(**CASES[case]), a_batch())


@pytest.mark.parametrize("case", ["whole words", "drawn once"])
def test_masks_do_not_depend_on_the_devices(each_mesh, case):
    for name, array in run(a_masking(**CASES[case]), a_batch()).items():
        np.testing.assert_array_equal(array, without_a_mesh(case)[name])


def test_masks_are_new_in_every_step():
    first, again, other = (run(a_masking(), a_batch(), key) for key in (1, 1, 2))
    np.testing.assert_array_equal(first["tokens"], again["tokens"])
    np.testing.assert_array_equal(first["positions"], again["positions"])
    assert (first["positions"] != other["positions"]).any()


def test_masks_drawn_once_go_by_the_example_and_the_turn_of_its_epoch():
    masking, batch = a_masking(dupe_factor=3), a_batch()
    first = run(masking, batch, key=1)
    masks = {}
    for epoch in range(7):
        batch["epoch"] = np.full(8, epoch, np.int32)
        out = run(masking, batch, key=10 + epoch)
        masks.setdefault(out["positions"].tobytes() + out["tokens"].tobytes(), []).append(epoch)
    assert sorted(masks.values()) == [[0, 3, 6], [1, 4], [2, 5]]
    # elsewhere in another batch
    order = np.array([5, 0, 3, 7])
    batch["epoch"] = np.full(8, 3, np.int32)
    part = run(masking, {name: array[order] for name, array in batch.items()}, key=2)
    np.testing.assert_array_equal(part["tokens"], first["tokens"][order])
    np.testing.assert_array_equal(part["positions"], first["positions"][order])
    batch["example"] = batch["example"] + 8
    assert (run(masking, batch)["positions"] != first["positions"]).any()
    assert (run(a_masking(dupe_factor=3, seed=1), batch)["positions"] != run(masking, batch)["positions"]).any()


def test_it_is_a_static_argument():
    packed = a_masking(whole_word=True, continuation=CONTINUES)
    assert packed == a_masking(whole_word=True, continuation=CONTINUES.tolist())
    assert hash(packed) == hash(a_masking(whole_word=True, continuation=packed.continuation))
    other = CONTINUES.copy()
    other[6] = True
    assert packed != a_masking(whole_word=True, continuation=other)
    assert a_masking(special_ids=[2, 3], max_predictions=[[8, 2]]) == a_masking(max_predictions=((8, 2),))
    assert Masking(WORDS, MASK, SPECIAL).predictions(128) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_id": WORDS}, "mask_id=60"),
        ({"special_ids": (2, -1)}, "special_ids"),
        ({"share": 0.0}, "share=0.0"),
        ({"share": 1.5}, "share=1.5"),
        ({"max_predictions": 0}, "max_predictions=0"),
        ({"max_predictions": ()}, r"max_predictions=\(\)"),
        ({"dupe_factor": 0}, "dupe_factor=0"),
        ({"whole_word": True}, "continuation"),
        ({"continuation": CONTINUES[1:]}, r"\(59,\)"),
        ({"continuation": b"1234"}, "4 bytes"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(BadInputError, match=message):
        a_masking(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros(8, np.int32)}, r"tokens \(8,\)"),
        ({"segments": np.zeros((8, 3), np.int32)}, r"segments \(8, 3\)"),
        ({"example": np.zeros((8, 1), np.int32)}, r"example has shape \(8, 1\)"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        run(a_masking(), a_batch() | change)


def test_a_length_without_an_entry_and_a_batch_that_does_not_divide_are_refused():
    with pytest.raises(BadInputError, match="length 32"):
        run(a_masking(max_predictions=((128, 20),)), a_batch())
    batch = jax.tree.map(jnp.asarray, a_batch(size=6))
    with sharding.use_mesh(sharding.make_mesh(4)), pytest.raises(BadInputError, match="batch_size=6 does not divide"):
        a_masking()(jax.random.key(0), **batch)
