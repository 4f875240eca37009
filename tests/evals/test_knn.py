import numpy as np
import pytest

from ssljax.evals import knn
from ssljax.types import BadInputError
from tests.oracles import evals_oracles, expected


def numpy_scores(train, labels, test, classes, k, temperature):
    train = train.astype(float) / np.linalg.norm(train.astype(float), axis=1, keepdims=True)
    test = test.astype(float) / np.linalg.norm(test.astype(float), axis=1, keepdims=True)
    scores = np.zeros((len(test), classes))
    for row, similarity in zip(scores, test @ train.T, strict=True):
        for neighbour in np.argsort(-similarity)[:k]:
            row[labels[neighbour]] += np.exp(similarity[neighbour] / temperature)
    return scores


@pytest.mark.parametrize("case", range(len(evals_oracles.KNN_CASES)))
def test_knn_equals_fair_lightly_and_numpy(each_mesh, case):
    train, labels, test, truth, classes, k, temperature = evals_oracles.knn_inputs(case)
    settings = {"num_classes": classes, "k": k, "temperature": temperature}
    got = knn.knn_predict(train, labels, test, **settings)
    np.testing.assert_array_equal(got, numpy_scores(train, labels, test, classes, k, temperature).argmax(1))
    np.testing.assert_array_equal(got, expected("knn_fair")[f"case_{case}"])
    np.testing.assert_array_equal(got, expected("knn_lightly")[f"case_{case}"])
    accuracy = knn.knn_accuracy(train, labels, test, truth, **settings)
    assert accuracy == pytest.approx(100 * np.mean(got == truth))


def test_strips_and_scales_do_not_matter(each_mesh, monkeypatch):
    train, labels, test, _, classes, k, temperature = evals_oracles.knn_inputs(0)
    settings = {"num_classes": classes, "k": k, "temperature": temperature}
    whole = knn.knn_predict(train, labels, test, **settings)
    monkeypatch.setattr(knn, "SIMILARITIES", 3 * len(train))
    factors = np.random.default_rng(0).uniform(0.1, 9, (len(train), 1))
    np.testing.assert_array_equal(whole, knn.knn_predict(factors * train, labels, 100 * test, **settings))


def test_a_low_temperature_is_the_nearest_neighbour():
    train, labels, test, _, classes, _, _ = evals_oracles.knn_inputs(1)
    nearest = knn.knn_predict(train, labels, test, num_classes=classes, k=1)
    got = knn.knn_predict(train, labels, test, num_classes=classes, k=20, temperature=1e-4)
    np.testing.assert_array_equal(got, nearest)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 51}, "k=51"),
        ({"k": 0}, "k=0"),
        ({"temperature": 0.0}, "temperature"),
        ({"train_labels": None}, "train_labels"),
        ({"test_labels": None}, "test_labels"),
        ({"num_classes": 2}, "num_classes=2"),
        ({"test_features": np.ones((23, 9))}, "wide"),
        ({"test_features": np.full((23, 8), np.nan)}, "test_features"),
        ({"train_features": np.ones((0, 8)), "train_labels": []}, "train_features"),
    ],
)
def test_knn_refuses(change, named):
    train, labels, test, truth, classes, k, temperature = evals_oracles.knn_inputs(1)
    arguments = {"train_features": train, "train_labels": labels, "test_features": test, "test_labels": truth}
    arguments |= {"num_classes": classes, "k": k, "temperature": temperature}
    with pytest.raises(BadInputError, match=named):
        knn.knn_accuracy(**(arguments | change))
