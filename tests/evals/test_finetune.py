"""Fine-tuning a toy encoder, whose updates NumPy can follow."""

import jax
import numpy as np
import pytest

from ssljax.data import order
from ssljax.evals import baselines, metrics
from ssljax.evals.finetune import FinetuneConfig, finetune, finetune_seeds
from ssljax.evals.finetune_steps import begin
from ssljax.types import BadInputError
from tests.evals.finetune_toys import CONFIG, OUTPUTS, WIDTH, WORDS, head, silent, task, toy, toy_params, tune


def softmax(x):
    x = np.exp(x - x.max(0))
    return x / x.sum(0)


def row_gradient(kind, params, tokens, label):
    """One row's loss and its gradients in the words' vectors [L, D], the kernel and the bias."""
    words, kernel, bias = params
    rows = words[tokens]
    read = rows if kind == "span" else rows.mean(0, keepdims=True)
    outputs = read @ kernel + bias
    if kind == "regression":
        error = outputs[0, 0] - label
        loss, slope = error**2, np.array([[2 * error]])
    else:
        places = outputs if kind == "span" else outputs.T
        wanted = np.stack([np.arange(len(places)) == place for place in np.atleast_1d(label)], 1)
        shares = softmax(places)
        loss, slope = -np.log(shares[wanted]).mean(), (shares - wanted) / wanted.shape[1]
        slope = slope if kind == "span" else slope.T
    back = slope @ kernel.T if kind == "span" else np.repeat(slope @ kernel.T / len(rows), len(rows), 0)
    return loss, back, read.T @ slope, slope.sum(0)


def numpy_finetune(kind, begun, train, config, seed):
    """The losses and final words, kernel and bias by BERT's AdamW in float64."""
    words, kernel = (leaf.astype(np.float64) for leaf in begun)
    params = (words, kernel, np.zeros(kernel.shape[1]))
    moments = [[np.zeros_like(p), np.zeros_like(p)] for p in params]
    count, losses, step = len(train["label"]), [], 0
    total = config.epochs * -(-count // config.batch_size)
    for epoch in range(config.epochs):
        rows = order.permutation(seed, epoch, count)
        for start in range(0, count, config.batch_size):
            batch, slopes, loss = rows[start : start + config.batch_size], [np.zeros_like(p) for p in params], 0
            for row in batch:
                tokens = train["tokens"][row, : train["lengths"][row]]
                one, back, *others = row_gradient(kind, params, tokens, train["label"][row])
                loss += one / len(batch)
                np.add.at(slopes[0], tokens, back / len(batch))
                for slope, other in zip(slopes[1:], others, strict=True):
                    slope += other / len(batch)
            norm = np.sqrt(sum((slope**2).sum() for slope in slopes))
            warm = int(config.warmup * total)
            rate = config.learning_rate * (step / warm if step < warm else 1 - step / total)
            for p, (m, v), slope in zip(params, moments, slopes, strict=True):
                slope = slope / max(norm, 1)
                m[:], v[:] = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
                p -= rate * (m / (np.sqrt(v) + 1e-6) + (config.weight_decay * p if p.ndim > 1 else 0))
            losses, step = [*losses, loss], step + 1
    return losses, params


def leaves(params):
    made = params["head"].get("dense", params["head"])
    return [np.asarray(leaf) for leaf in (params["encoder"]["words"], made["kernel"], made["bias"])]


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_update_against_numpy(kind):
    train, total = task(kind), 15
    found = tune(kind, train)
    key, _ = jax.random.split(jax.random.key(0))
    words, kernel, _ = leaves(begin(toy_params(), key, toy(), head(kind), kind, CONFIG, total)[0])
    losses, wanted_params = numpy_finetune(kind, (words, kernel), train, CONFIG, seed=0)
    assert len(losses) == total
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
    for ours, wanted in zip(leaves(found["params"]), wanted_params, strict=True):
        if kind == "span" and wanted.ndim == 1:
            wanted = ours  # it adds the same to every place: its gradient is rounding, which Adam blows up
        np.testing.assert_allclose(ours, wanted, atol=2e-4)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_outputs_of_the_dev_rows_and_their_score(kind):
    dev = task(kind, 21, seed=1)
    found = tune(kind, dev=dev, config=FinetuneConfig(epochs=1, learning_rate=0.01))
    words, kernel, bias = leaves(found["params"])
    for row in range(21):
        length = dev["lengths"][row]
        read = words[dev["tokens"][row, :length]]
        wanted = (read if kind == "span" else read.mean(0)) @ kernel + bias
        ours = found["outputs"][row]
        if kind == "span":
            assert ours.shape == (70, 2)
            assert (ours[length:] == -1e9).all()
            ours = ours[:length]
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    outputs, label = found["outputs"], dev["label"]
    if kind == "classification":
        assert found["metric"] == {"accuracy": metrics.accuracy(outputs.argmax(1), label)}
    elif kind == "regression":
        wanted = {name: getattr(metrics, name)(outputs[:, 0], label) for name in ("pearson", "spearman")}
        assert found["metric"] == wanted
    else:
        right = (outputs[..., 0].argmax(1) == label[:, 0]) & (outputs[..., 1].argmax(1) == label[:, 1])
        assert found["metric"] == {"exact": pytest.approx(100 * right.mean())}


@pytest.mark.parametrize(("kind", "name", "least"), [("classification", "accuracy", 85), ("regression", "pearson", 85)])
def test_it_learns(kind, name, least):
    train, dev = task(kind, 300), task(kind, 200, seed=1)
    found = tune(kind, train, dev, FinetuneConfig(epochs=6, batch_size=16, learning_rate=0.05))
    assert found["metric"][name] > least
    assert found["warnings"] == []
    assert np.mean(found["losses"][-10:]) < 0.5 * np.mean(found["losses"][:10])


def test_seeds():
    train, dev = task("classification"), task("classification", 21, seed=1)
    said: list[str] = []
    arguments = (toy(), head("classification"), toy_params(), train, dev)
    found = finetune_seeds(*arguments, kind="classification", config=CONFIG, seed=4, say=said.append)
    runs = [tune("classification", train, dev, seed=seed) for seed in (4, 5)]
    values = [run["metric"]["accuracy"] for run in runs]
    assert found["seeds"] == [{"accuracy": value} for value in values]
    assert found["losses"] == [run["losses"] for run in runs]
    assert found["losses"][0] != found["losses"][1]
    assert found["mean"] == {"accuracy": pytest.approx(np.mean(values))}
    assert found["sd"] == {"accuracy": pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))}
    most = np.bincount(train["label"]).argmax()
    assert found["majority"] == {"accuracy": pytest.approx(100 * np.mean(dev["label"] == most))}
    np.testing.assert_array_equal(found["outputs"], runs[0]["outputs"])
    assert [sentence[:7] for sentence in said if sentence.startswith("seed")] == ["seed 4:", "seed 5:"]
    one = finetune_seeds(*arguments, kind="classification", config=FinetuneConfig(epochs=1, seeds=1), say=silent)
    assert one["sd"] == {"accuracy": 0.0}


def test_a_score_of_ones_own_and_spans_without_majority():
    found = finetune_seeds(
        *(toy(), head("span"), toy_params(), task("span"), task("span", 5, seed=1)),
        kind="span",
        config=FinetuneConfig(epochs=1, seeds=1),
        score=lambda outputs: {"rows": float(len(outputs))},
        say=silent,
    )
    assert found["mean"] == {"rows": 5.0}
    assert found["majority"] == {}


def test_what_does_not_learn_is_said_early():
    train = task("classification", 200)
    train["label"] = np.random.default_rng(0).integers(0, 2, 200).astype(np.int32)
    said: list[str] = []
    found = tune("classification", train, config=FinetuneConfig(learning_rate=1e-6), say=said.append)
    assert said[0].startswith("does not learn: after 7 of 21 steps the loss is 0.")
    assert len(said) == 1
    assert [sentence.split("after ")[1][:8] for sentence in found["warnings"]] == ["7 of 21 ", "21 of 21"]
    broken = {"words": np.full((WORDS, WIDTH), np.nan, np.float32)}
    diverged = tune("regression", params=broken)
    assert "the loss is nan" in diverged["warnings"][0]


def test_the_constants_loss():
    labels = np.array([0, 0, 0, 2])
    assert baselines.constant_loss({"label": labels}, "classification") == pytest.approx(0.562335)
    assert baselines.constant_loss({"label": np.array([1.0, 3.0])}, "regression") == pytest.approx(1)
    assert baselines.constant_loss({"lengths": np.array([1, 100])}, "span") == pytest.approx(np.log(10))


def without(data, name):
    return {key: value for key, value in data.items() if key != name}


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("classification", lambda data: without(data, "segments"), "train has no 'segments'"),
        ("classification", lambda data: without(data, "label"), "train has no 'label'"),
        ("classification", lambda data: data | {"label": data["label"] + 1}, "num_classes=2"),
        ("classification", lambda data: {name: rows[:0] for name, rows in data.items()}, "no rows"),
        ("classification", lambda data: data | {"lengths": data["lengths"] * 0}, "rows without tokens"),
        ("regression", lambda data: data | {"label": data["label"][:3]}, "for 37 rows of regression"),
        ("span", lambda data: data | {"label": data["label"] + 70}, "not within its row"),
    ],
)
def test_bad_data_is_refused_before_any_compile(kind, change, words):
    with pytest.raises(BadInputError, match=words):
        tune(kind, change(task(kind)))


def test_a_head_that_does_not_fit_is_refused():
    data = task("regression")
    with pytest.raises(BadInputError, match="the head has 2 outputs; regression needs 1"):
        finetune(toy(), head("classification"), toy_params(), data, data, kind="regression", config=CONFIG)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seeds": 0}, "seeds=0"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"warmup": 1.0}, r"warmup=1\.0"),
        ({"warmup": -0.1}, "warmup=-"),
    ],
)
def test_bad_numbers_are_refused(options, words):
    with pytest.raises(BadInputError, match=words):
        FinetuneConfig(**options)
