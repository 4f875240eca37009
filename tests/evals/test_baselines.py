"""The constant answer against a search for a better one, and the words' model on sentences made for it."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.dummy

from ssljax.evals import baselines, metrics
from ssljax.text.text_tasks import TASKS, Examples, read_task
from ssljax.types import BadInputError

GLUE = Path(__file__).parents[2] / ".." / "shared" / "data" / "glue"


@pytest.mark.parametrize("seed", range(5))
def test_the_constant_answer_against_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 30 + seed)
    wanted = sklearn.dummy.DummyClassifier(strategy="most_frequent").fit(labels, labels).predict(np.zeros(7))
    found = baselines.constant(labels, 7, 4)
    assert found.shape == (7, 4)
    np.testing.assert_array_equal(found.argmax(1), wanted)
    numbers = rng.normal(size=20)
    np.testing.assert_allclose(baselines.constant(numbers, 3, 1), np.full((3, 1), numbers.mean()), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_constant_has_a_lower_loss(seed):
    rng = np.random.default_rng(seed)
    labels, numbers = rng.integers(0, 3, 40), rng.normal(size=40)
    best = baselines.constant_loss({"label": labels}, "classification")
    own = np.bincount(labels, minlength=3) / 40
    assert best == pytest.approx(-np.log(own[labels]).mean())
    for _ in range(50):
        logits = rng.normal(size=3)
        assert -np.mean((logits - np.log(np.exp(logits).sum()))[labels]) >= best
    best = baselines.constant_loss({"label": numbers.astype(np.float32)}, "regression")
    assert best == pytest.approx(np.mean((numbers - numbers.mean()) ** 2), rel=1e-5)


def sentences(rng, count):
    """The label is whether there are more good than bad words; of pairs, whether they share a noun."""
    labels, texts = rng.integers(0, 2, count), []
    for label in labels:
        words = rng.choice(["film", "plot", "it", "was"], 5).tolist()
        words += rng.choice(["good", "fine", "lovely"] if label else ["bad", "dull", "awful"], 2).tolist()
        texts.append(" ".join(rng.permutation(words)))
    return Examples(texts, None, labels.astype(np.int32))


def pairs(rng, count):
    names = [f"noun{i}" for i in range(12)]
    labels = rng.integers(0, 2, count)
    first = rng.choice(names, count)
    second = [a if label else rng.choice([name for name in names if name != a]) for a, label in zip(first, labels)]  # noqa: B905
    return Examples([f"a {name}" for name in first], [f"the {name} is" for name in second], labels.astype(np.int32))


@pytest.mark.parametrize("make", [sentences, pairs])
def test_words_that_tell_are_found(make):
    rng = np.random.default_rng(0)
    train, dev = make(rng, 200), make(rng, 100)
    found = baselines.bag_of_words(train, dev, 2)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
    assert metrics.accuracy(found.argmax(1), dev.labels) > 90
    np.testing.assert_array_equal(found, baselines.bag_of_words(train, dev, 2))


def test_numbers_and_a_class_that_training_lacks():
    rng = np.random.default_rng(1)
    train, dev = sentences(rng, 100), sentences(rng, 50)
    scored = [part._replace(labels=part.labels * 3.0 + 1) for part in (train, dev)]
    found = baselines.bag_of_words(scored[0], scored[1], 1)
    assert found.shape == (50, 1)
    assert metrics.pearson(found[:, 0], scored[1].labels) > 80
    three = baselines.bag_of_words(train, dev, 3)
    assert (three[:, 2] == -np.inf).all()
    for wrong in (train._replace(labels=train.labels * 0), Examples(["a"] * 3, None, np.array([0, 1, 0]))):
        with pytest.raises(BadInputError, match="give 10 of two or more"):
            baselines.bag_of_words(wrong, dev, 2)


@pytest.mark.skipif(not GLUE.exists(), reason="the shared data is not here")
def test_cola_cannot_be_told_by_its_words():
    """Whether a sentence is grammatical: arXiv 1805.12471 counts on that for its choice of task."""
    task = TASKS["CoLA"]
    train, dev = (read_task(task, str(GLUE), split) for split in ("train", "dev"))
    part = train._replace(first=train.first[:800], labels=train.labels[:800])
    found = baselines.bag_of_words(part, dev, 2).argmax(1)
    assert abs(metrics.matthews(found, dev.labels)) < 15
    assert metrics.accuracy(found, dev.labels) > 60
