import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from ssljax.evals import metrics
from ssljax.types import BadInputError


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_against_scikit_learn(seed, classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 50 + 30 * seed)
    predictions = np.where(rng.random(len(labels)) < 0.5, labels, rng.integers(0, classes, len(labels)))
    assert metrics.accuracy(predictions, labels) == pytest.approx(
        100 * sklearn.metrics.accuracy_score(labels, predictions), abs=1e-9
    )
    assert metrics.matthews(predictions, labels) == pytest.approx(
        100 * sklearn.metrics.matthews_corrcoef(labels, predictions), abs=1e-9
    )
    for positive in range(classes):
        wanted = sklearn.metrics.f1_score(labels == positive, predictions == positive)
        assert metrics.f1(predictions, labels, positive) == pytest.approx(100 * wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_against_scipy(seed, ties):
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=20 + 40 * seed) * 3 + 1
    predictions = labels + rng.normal(size=len(labels)) * (seed + 1)
    if ties:
        labels, predictions = labels.round(), predictions.round()
    predictions = predictions.astype(np.float32)
    wanted = 100 * np.asarray(scipy.stats.pearsonr(predictions.astype(np.float64), labels))[0]
    assert metrics.pearson(predictions, labels) == pytest.approx(wanted, abs=1e-8)
    wanted = 100 * np.asarray(scipy.stats.spearmanr(predictions, labels))[0]
    assert metrics.spearman(predictions, labels) == pytest.approx(wanted, abs=1e-8)


def test_the_ends():
    assert metrics.matthews([0, 1, 2], [0, 1, 2]) == pytest.approx(100)
    assert metrics.matthews([1, 0], [0, 1]) == pytest.approx(-100)
    assert metrics.matthews([1, 1, 1], [0, 1, 1]) == 0
    assert metrics.f1([0, 0], [0, 0]) == 0
    assert metrics.spearman([5, 5, 5], [1, 2, 3]) == 0
    assert metrics.pearson(np.full(7, 0.1), np.arange(7)) == 0
    assert metrics.pearson([3.0, 2.0, 1.0], [1, 2, 3]) == pytest.approx(-100)
    assert np.isnan(metrics.pearson([np.nan, 1.0], [0.0, 1.0]))
    assert np.isnan(metrics.spearman([np.nan, 1.0], [0.0, 1.0]))


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews", "pearson", "spearman"])
@pytest.mark.parametrize(("predictions", "labels"), [([1, 0], [1]), ([], []), ([[1]], [[1]])])
def test_what_cannot_be_compared_is_refused(name, predictions, labels):
    with pytest.raises(BadInputError, match="one of each"):
        getattr(metrics, name)(predictions, labels)
