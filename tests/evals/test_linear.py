import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.evals import MOCO, MOCO_V3_R50, SIMSIAM, SWAV, ProbeConfig, linear, logistic
from ssljax.evals.features import BackboneChangedError
from ssljax.types import BadInputError
from tests.oracles import evals_oracles, expected

TORCH = ProbeConfig(epochs=3, batch_size=16, learning_rate=0.5, milestones=(1, 2), weight_decay=0.01, init_std=0.0)


def flat(variables, view):
    return variables["scale"] * view.reshape(view.shape[0], -1)


def plain(image):
    return image.astype(jnp.float32) / 255


def same_view(key, image):
    return plain(image)


def batches(epoch):
    images, labels = evals_oracles.probe_inputs()
    for image, label in zip(images[epoch], labels[epoch], strict=True):
        yield {"image": image, "label": label}


def test_batches():
    """17 rows in batches of 7, 7 and 3."""
    images, labels = evals_oracles.probe_inputs()
    images, labels = images[0].reshape(64, 2, 3, 1)[:17], labels[0].reshape(64)[:17]
    return [{"image": images[i : i + 7], "label": labels[i : i + 7]} for i in (0, 7, 14)]


test_batches.__test__ = False  # type: ignore[attr-defined]


def probe(**changes):
    arguments = {
        "features_fn": flat,
        "variables": {"scale": np.float32(1) * np.ones(1, np.float32)[:, None]},
        "train_batches": batches,
        "test_batches": test_batches,
        "train_view": same_view,
        "test_view": plain,
        "num_classes": 4,
        "config": TORCH,
    }
    return linear.linear_probe(**(arguments | changes))


def test_linear_probe_equals_torch_sgd(each_mesh):
    losses = []
    got, want = probe(on_epoch=lambda epoch, loss: losses.append(loss)), expected("linear_probe_torch")
    np.testing.assert_allclose(got.kernel, want["kernel"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.bias, want["bias"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses, want["losses"], rtol=1e-5)
    rows = np.concatenate([batch["image"].reshape(-1, 6) for batch in test_batches()]) / 255
    right = (rows @ want["kernel"] + want["bias"][None]).argmax(1) == np.concatenate(
        [batch["label"] for batch in test_batches()]
    )
    assert got.accuracy == pytest.approx(100 * right.mean())


def test_inputs_come_to_the_views_by_name():
    def split(batches):
        return [{"label": each["label"], "low": each["image"] % 16, "high": each["image"] // 16} for each in batches]

    data = {"train_batches": lambda epoch: split(batches(epoch)), "test_batches": lambda: split(test_batches())}
    got = probe(train_view=lambda key, high, low: plain(16 * high + low), test_view=lambda low, high: low, **data)
    np.testing.assert_allclose(got.kernel, probe().kernel, rtol=1e-6)


def test_views_differ_from_step_to_step_and_repeat_with_the_seed():
    def noisy(key, image):
        return plain(image) + jax.random.normal(key, image.shape)

    first, again, other = (probe(train_view=noisy, seed=seed).kernel for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_the_start_is_normal_with_the_stated_deviation():
    still = dataclasses.replace(MOCO, epochs=1, batch_size=16, learning_rate=1e-12)
    wide = probe(config=still, features_fn=lambda v, x: jnp.tile(flat(v, x), (1, 400)))
    assert wide.kernel.shape == (2400, 4)
    assert wide.kernel.std() == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(wide.bias, 0, atol=1e-9)


def test_lars_scales_each_leaf_by_its_trust_ratio():
    config = dataclasses.replace(SIMSIAM, epochs=1, batch_size=16, learning_rate=1.0, schedule="step", init_std=0.5)
    one = lambda epoch: list(batches(0))[:1]  # noqa: E731
    start = probe(config=dataclasses.replace(config, learning_rate=1e-12), train_batches=one)
    got = probe(config=config, train_batches=one)
    x = evals_oracles.probe_inputs()[0][0, 0].reshape(16, 6) / 255
    y = np.eye(4)[evals_oracles.probe_inputs()[1][0, 0]]
    scores = np.exp(x @ start.kernel)
    error = (scores / scores.sum(1, keepdims=True) - y) / 16
    grad = x.T @ error
    ratio = 1e-3 * np.linalg.norm(start.kernel) / np.linalg.norm(grad)
    np.testing.assert_allclose(start.kernel - got.kernel, ratio * grad, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(got.bias, -error.sum(0), rtol=1e-3, atol=1e-6)  # a zero leaf has no ratio


def test_schedules_of_the_papers():
    assert [MOCO.rate(epoch) for epoch in (0, 59)] == [30.0, 30.0]
    np.testing.assert_allclose([MOCO.rate(epoch) for epoch in (60, 79, 80, 99)], [3, 3, 0.3, 0.3])
    np.testing.assert_allclose([SWAV.rate(epoch) for epoch in (0, 50)], [0.3, 0.15])
    np.testing.assert_allclose(MOCO_V3_R50.rate(0), 0.1 * 1024 / 256)
    np.testing.assert_allclose(SIMSIAM.rate(45), 0.5 * 0.1 * 4096 / 256)


def test_a_changed_backbone_is_an_error():
    variables = {"scale": np.ones((1, 1), np.float32)}

    def careless(epoch):
        variables["scale"][0, 0] += 1e-6
        return batches(epoch)

    with pytest.raises(BackboneChangedError, match="scale"):
        probe(variables=variables, train_batches=careless)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_batches": lambda epoch: []}, "train_batches"),
        ({"test_batches": list}, "test_batches"),
        ({"train_batches": lambda epoch: [{"image": np.zeros((16, 2, 3, 1), np.uint8)}]}, "labels"),
        ({"config": dataclasses.replace(TORCH, batch_size=32)}, "16 rows; ProbeConfig says 32"),
        ({"num_classes": 3}, "num_classes=3"),
    ],
)
def test_linear_probe_refuses(change, named):
    with pytest.raises(BadInputError, match=named):
        probe(**change)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_probe_config_refuses(change):
    with pytest.raises(BadInputError):
        ProbeConfig(**change)


def clusters(seed, rows, width, classes, spread=2.0):
    random = np.random.default_rng(seed)
    centres, labels = random.normal(size=(classes, width)), random.integers(0, classes, rows)
    features = centres[labels] + spread * random.normal(size=(rows, width))
    return features.astype(np.float32), labels


def newton(features, labels, weights, classes, l2):
    """The same minimum in float64 by Newton's method on the full Hessian; kernel and bias stacked."""
    x, y = np.c_[features, np.ones(len(features))].astype(float), np.eye(classes)[labels]
    weights = weights / weights.sum()
    penalty = l2 * np.r_[np.ones(x.shape[1] - 1), 0]
    theta = np.zeros((x.shape[1], classes))
    for _ in range(50):
        scores = x @ theta
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        grad = x.T @ (weights[:, None] * (p - y)) + penalty[:, None] * theta
        blocks = weights[:, None, None] * (np.eye(classes)[None] * p[:, None, :] - p[:, :, None] * p[:, None, :])
        hessian = np.einsum("nd,ncb,ne->dceb", x, blocks, x).reshape(theta.size, theta.size)
        hessian += np.diag(np.repeat(penalty, classes))
        theta -= np.linalg.lstsq(hessian, grad.ravel(), rcond=1e-12)[0].reshape(theta.shape)
    return theta, np.abs(grad).max()


@pytest.mark.parametrize("devices", [None, 8])
@pytest.mark.parametrize(("rows", "width", "classes", "l2"), [(60, 5, 3, 1e-3), (41, 8, 2, 1e-1)])
def test_logistic_regression_equals_newton(devices, rows, width, classes, l2):
    features, labels = clusters(rows, rows, width, classes)
    weights = np.random.default_rng(1).integers(0, 2, rows)
    with sharding.use_mesh(sharding.make_mesh(devices) if devices else None):
        got = logistic.logistic_regression(features, labels, weights, num_classes=classes, l2=l2, tolerance=1e-5)
    want, gradient = newton(features, labels, weights, classes, l2)
    assert gradient < 1e-9
    np.testing.assert_allclose(got["kernel"], want[:-1], rtol=2e-3, atol=2e-3)
    # the bias is known up to a constant
    np.testing.assert_allclose(got["bias"] - got["bias"].mean(), want[-1] - want[-1].mean(), rtol=2e-3, atol=2e-3)


def test_a_start_nearby_leads_to_the_same_minimum():
    features, labels = clusters(0, 80, 6, 3)
    fit: dict[str, Any] = {"num_classes": 3, "l2": 1e-2, "tolerance": 1e-5}
    cold = logistic.logistic_regression(features, labels, np.ones(80), **fit)
    near = logistic.logistic_regression(features, labels, np.ones(80), num_classes=3, l2=1.0)
    warm = logistic.logistic_regression(features, labels, np.ones(80), start=near, **fit)
    np.testing.assert_allclose(warm["kernel"], cold["kernel"], atol=2e-3)


def test_quick_probe_is_the_newton_solution_of_the_chosen_strength():
    features, labels = clusters(3, 300, 10, 4)
    train, test, train_labels, truth = features[:200], features[200:], labels[:200], labels[200:]
    got = logistic.quick_probe(train, train_labels, test, truth, num_classes=4, l2_grid=(0.05,))
    mean, std = train.mean(0)[None], train.std(0)[None]
    theta, _ = newton((train - mean) / std, train_labels, np.ones(200), 4, 0.05)
    predicted = (np.c_[(test - mean) / std, np.ones(100)] @ theta).argmax(1)
    assert got == pytest.approx(100 * np.mean(predicted == truth), abs=1.0)  # one row on the border


def test_quick_probe_chooses_by_the_training_rows():
    random = np.random.default_rng(5)
    features, labels = clusters(5, 700, 60, 3, spread=3.0)
    train, test = features[:100], features[100:]
    weak, strong = (
        logistic.quick_probe(train, labels[:100], test, labels[100:], num_classes=3, l2_grid=(l2,))
        for l2 in (1e-5, 3.0)
    )
    chosen = logistic.quick_probe(train, labels[:100], test, labels[100:], num_classes=3, l2_grid=(1e-5, 3.0), folds=5)
    assert strong > weak + 5
    assert chosen == strong
    shuffled = random.permutation(labels[100:])
    assert logistic.quick_probe(train, labels[:100], test, shuffled, num_classes=3) < 45


def test_quick_probe_bears_constant_features_and_a_lonely_class():
    features, labels = clusters(6, 50, 4, 2, spread=0.1)
    features = np.c_[features, np.full(50, 7)]
    labels[0] = 2
    assert logistic.quick_probe(features, labels, features[1:], labels[1:], num_classes=3) > 95


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_labels": None}, "train_labels"),
        ({"test_labels": None}, "test_labels"),
        ({"l2_grid": ()}, "l2_grid"),
        ({"l2_grid": (0.0, 1.0)}, "l2_grid"),
        ({"test_features": np.ones((5, 3))}, "wide"),
        ({"train_features": np.full((5, 2), np.inf)}, "train_features"),
    ],
)
def test_quick_probe_refuses(change, named):
    arguments = {"train_features": np.ones((5, 2)), "test_features": np.ones((5, 2))}
    arguments |= {"train_labels": np.arange(5) % 2, "test_labels": np.arange(5) % 2, "num_classes": 2}
    with pytest.raises(BadInputError, match=named):
        logistic.quick_probe(**(arguments | change))
