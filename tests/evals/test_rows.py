"""What the quick evaluations learn from: a part of very many rows, and principal axes where they are quick."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.evals import fractions, knn, logistic, rows
from tests.evals.test_linear import clusters


@pytest.mark.parametrize("shape", [(40, 12), (5, 12), (30, 30)])
def test_standardise_keeps_distances_and_maps_a_head_back(shape):
    random = np.random.default_rng(1)
    train = (random.normal(size=shape) * np.arange(shape[1]) + 3).astype(np.float32)
    test = random.normal(size=(9, shape[1])).astype(np.float32)
    turned, axes = rows.standardise(train)
    std = np.where(train.std(0) > 1e-6, train.std(0), 1)[None]
    plain, plain_test = (train - train.mean(0)[None]) / std, (test - train.mean(0)[None]) / std
    np.testing.assert_allclose(turned @ turned.T, plain @ plain.T, rtol=1e-4, atol=1e-3)
    head = {"kernel": random.normal(size=(turned.shape[1], 3)).astype(np.float32), "bias": np.ones(3, np.float32)}
    raw = axes.raw(head)
    np.testing.assert_allclose(
        test @ raw["kernel"] + raw["bias"][None], plain_test @ axes.turned @ head["kernel"] + 1, rtol=1e-3, atol=1e-3
    )


def test_what_is_many_both_ways_is_not_turned(monkeypatch):
    monkeypatch.setattr(rows, "ROTATED", 10)
    wide = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    for shape, turned in (((30, 20), False), ((30, 10), True), ((10, 20), True)):
        _, axes = rows.standardise(wide[: shape[0], : shape[1]])
        assert (axes.turned is not None) is turned


def pixels(seed, count, width, classes):
    """Smooth curves, whose columns are strongly correlated as neighbouring pixels are, with an offset."""
    random = np.random.default_rng(seed)
    kernel = np.exp(-0.5 * ((np.arange(width)[:, None] - np.arange(width)[None]) / 4) ** 2)
    centres, labels = random.normal(size=(classes, width)) @ kernel, random.integers(0, classes, count)
    curves = 3 + centres[labels] + 1.5 * random.normal(size=(count, width)) @ kernel
    return (curves + 0.1 * random.normal(size=(count, width))).astype(np.float32), labels


@pytest.mark.parametrize("problem", [clusters, pixels])
def test_turned_or_not_the_accuracy_is_that_of_scikit_learn(problem, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    seen, labels = problem(2, 2600, 60, 5)
    train, test, y, truth = seen[:600], seen[600:], labels[:600], labels[600:]
    mean, std = train.mean(0)[None], train.std(0)[None]
    model = LogisticRegression(C=1 / (0.01 * 600), max_iter=5000, tol=1e-6).fit((train - mean) / std, y)
    expected = 100 * model.score((test - mean) / std, truth)
    for most in (1024, 10):
        monkeypatch.setattr(rows, "ROTATED", most)
        got = logistic.quick_probe(train, y, test, truth, num_classes=5, l2_grid=(0.01,))
        assert got == pytest.approx(expected, abs=0.3)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(1, 200))
def test_a_part_has_every_class_in_its_share(labels, most):
    labels = np.array(labels)
    kept = rows.evenly_per_class(labels, most)
    assert (np.diff(kept) > 0).all()
    counts, found = np.bincount(labels), np.bincount(labels[kept], minlength=labels.max() + 1)
    if len(labels) <= most:
        assert len(kept) == len(labels)
    else:
        share = most / len(labels)
        assert all(got == max(1, int(count * share + 1e-9)) for got, count in zip(found, counts, strict=True) if count)
        assert len(kept) <= most + len(np.unique(labels))


def test_a_part_is_evenly_spaced():
    kept = rows.evenly_per_class(np.repeat([0, 1], 500), 100)
    assert set(np.diff(kept).tolist()) == {10}


def test_few_of_too_many_rows_are_learned_from_and_it_is_said_once(monkeypatch, capsys):
    seen, labels = clusters(4, 3000, 20, 4)
    train, test, y, truth = seen[:2000], seen[2000:], labels[:2000], labels[2000:]
    whole = logistic.quick_probe(train, y, test, truth, num_classes=4)
    assert capsys.readouterr().out == ""
    rows.say_once.cache_clear()
    monkeypatch.setattr(rows, "MOST", 1000 * 20)
    found = [logistic.quick_probe(train, y, test, truth, num_classes=4) for _ in range(2)]
    said = capsys.readouterr().out
    assert said.count("learns from") == 1
    assert "of 2000 training rows of width 20, evenly spaced in each class" in said
    assert found[0] == found[1] == pytest.approx(whole, abs=1.5)
    kept = rows.evenly_per_class(y, 1000)
    assert found[0] == logistic.quick_probe(train[kept], y[kept], test, truth, num_classes=4)


def test_more_classes_leave_fewer_rows():
    assert rows.affordable(50_000, 512, 10) == 50_000
    assert rows.affordable(50_000, 2048, 10) == rows.affordable(50_000, 2048, 16) == 16_384
    assert rows.affordable(50_000, 512, 160) == 6553
    assert rows.affordable(5, 10**9, 1000) == 1


@pytest.mark.parametrize("columns", [7, 100, 1000, 1003])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_nearest_are_those_of_a_sort(columns, k):
    similarity = np.random.default_rng(columns).normal(size=(11, columns)).astype(np.float32)
    similarity[0] = 1
    similarity[1, ::2] = 5
    values, places = knn._nearest(similarity, k)
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(similarity, expected, 1))


def test_the_bank_of_too_many_pairs_is_thinned_and_it_is_said(monkeypatch, capsys):
    seen, labels = clusters(4, 1500, 20, 4)
    arguments = seen[:1000], labels[:1000], seen[1000:]
    whole = knn.knn_predict(*arguments, num_classes=4, k=10)
    rows.say_once.cache_clear()
    monkeypatch.setattr(knn, "PAIRS", 500 * 400 * 532 // 1024 + 1)
    kept = rows.evenly_per_class(labels[:1000], 400)
    part = knn.knn_predict(*arguments, num_classes=4, k=10)
    expected = knn.knn_predict(seen[kept], labels[kept], seen[1000:], num_classes=4, k=10)
    np.testing.assert_array_equal(part, expected)
    assert capsys.readouterr().out.count("of 1000 training rows") == 1
    assert np.mean(part == whole) > 0.8


def test_the_smallest_class_is_what_a_draw_can_ask_for():
    seen, labels = clusters(1, 60, 4, 3)
    labels[:3], labels[3:] = 2, np.arange(57) % 2
    assert fractions.smallest_class(labels) == 3
    fractions.few_label_accuracy(seen, labels, seen, labels, num_classes=3, per_class=3, draws=2)


def test_a_long_part_says_how_long_it_took(monkeypatch, capsys):
    seconds = iter((0.0, 4.9, 10.0, 17.2))
    monkeypatch.setattr(rows.time, "monotonic", lambda: next(seconds))
    part = rows.timed("kNN")(lambda x, y=1: x + y)
    assert part(1) == 2
    assert capsys.readouterr().out == ""
    assert part(1, y=3) == 4
    assert capsys.readouterr().out == "kNN: 7 s\n"
