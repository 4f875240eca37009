import numpy as np
import pytest

from ssljax.evals import fractions
from ssljax.types import BadInputError


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_per_class_subset_draws_n_of_each_class(n, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat([0, 2, 5], [7, 20, 30]))
    rows = fractions.per_class_subset(labels, n, seed)
    assert dict(zip(*np.unique(labels[rows], return_counts=True), strict=True)) == {0: n, 2: n, 5: n}
    assert len(set(rows.tolist())) == 3 * n
    np.testing.assert_array_equal(rows, fractions.per_class_subset(labels, n, seed))
    assert set(rows.tolist()) != set(fractions.per_class_subset(labels, n, seed + 2).tolist())


def test_every_row_of_a_class_is_as_likely():
    drawn = np.concatenate([fractions.per_class_subset(np.zeros(8, int), 2, seed) for seed in range(1000)])
    counts = np.bincount(drawn, minlength=8)
    assert np.abs(counts - 250).max() < 5 * np.sqrt(1000 * 0.25 * 0.75)


@pytest.mark.parametrize(("fraction", "want"), [(0.01, [10, 1, 1]), (0.1, [100, 5, 1]), (1, [1000, 50, 3])])
def test_fraction_subset_takes_a_share_of_each_class(fraction, want):
    labels = np.repeat([0, 1, 2], [1000, 50, 3])
    rows = fractions.fraction_subset(labels, fraction, seed=0)
    assert np.bincount(labels[rows]).tolist() == want
    assert len(set(rows.tolist())) == sum(want)


def test_few_label_accuracy_fits_the_drawn_rows_only(monkeypatch):
    seen = []

    def spy(train, labels, test, truth, **settings):
        seen.append((train, labels, settings))
        return float(len(seen))

    monkeypatch.setattr(fractions, "quick_probe", spy)
    features = np.arange(60, dtype=np.float32)[:, None]
    labels = np.arange(60) % 3
    got = fractions.few_label_accuracy(features, labels, features, labels, num_classes=3, per_class=4, draws=3)
    assert got == (2.0, 1.0)
    assert len({tuple(train[:, 0]) for train, _, _ in seen}) == 3
    for train, drawn, settings in seen:
        np.testing.assert_array_equal(train[:, 0] % 3, drawn)
        assert np.bincount(drawn).tolist() == [4, 4, 4]
        assert settings["folds"] == 5


def test_more_labels_are_better_and_draws_differ():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 100)
    features = random.normal(size=(3, 20))[labels] + 2 * random.normal(size=(300, 20))
    settings = {"num_classes": 3, "draws": 2}
    few, few_sd = fractions.few_label_accuracy(features, labels, features, labels, per_class=1, **settings)
    many, _ = fractions.few_label_accuracy(features, labels, features, labels, per_class=20, **settings)
    assert few + 5 < many
    assert few_sd > 0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: fractions.per_class_subset([0, 0, 1], 2, 0), "Class 1 has 1"),
        (lambda: fractions.per_class_subset([0, 0, 1], 0, 0), "n=0"),
        (lambda: fractions.per_class_subset(None, 2, 0), "labels"),
        (lambda: fractions.per_class_subset([], 2, 0), "labels"),
        (lambda: fractions.fraction_subset([0, 1], 0.0, 0), "fraction=0"),
        (lambda: fractions.fraction_subset([0, 1], 1.5, 0), "fraction=1.5"),
        (lambda: fractions.fraction_subset(None, 0.1, 0), "labels"),
        (
            lambda: fractions.few_label_accuracy(
                np.ones((3, 2)), [0, 1, 1], np.ones((3, 2)), [0, 1, 1], num_classes=2, draws=1
            ),
            "draws=1",
        ),
        (
            lambda: fractions.few_label_accuracy(np.ones((3, 2)), None, np.ones((3, 2)), [0, 1, 1], num_classes=2),
            "train_labels",
        ),
    ],
)
def test_fractions_refuse(call, named):
    with pytest.raises(BadInputError, match=named):
        call()
