import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax import optim, sharding
from ssljax.types import BadInputError
from tests.oracles import expected, optim_oracles
from tests.oracles.optim_oracles import RATES, STEPS, parameters_and_gradients


def changing_rate(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def trajectory(transformation, parameters=None, gradients=None):
    """The parameters after each step, `{name: [STEPS, ...]}`."""
    if parameters is None or gradients is None:
        parameters, gradients = parameters_and_gradients()
    parameters = jax.tree.map(jnp.asarray, parameters)
    state, history = transformation.init(parameters), []

    @jax.jit
    def update(parameters, state, gradient):
        updates, state = transformation.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    for step in range(STEPS):
        gradient = jax.tree.map(lambda g, step=step: g[step], gradients)
        parameters, state = update(parameters, state, gradient)
        history.append(parameters)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *history)


def assert_follows(transformation, reference, **tolerance):
    result = trajectory(transformation)
    for name, values in result.items():
        np.testing.assert_allclose(values, reference[name], **tolerance)


def lars_by_hand(rates, *, lr_in_momentum, momentum, weight_decay, trust, nesterov=False, adapted=("kernel",)):
    parameters, gradients = parameters_and_gradients()
    history = {}
    for name, value in parameters.items():
        value, buffer, history[name] = value.astype(np.float64), 0.0, []
        for rate, gradient in zip(rates, gradients[name].astype(np.float64), strict=True):
            if name in adapted:
                gradient = gradient + weight_decay * value
                gradient = gradient * trust * np.linalg.norm(value) / np.linalg.norm(gradient)
            if lr_in_momentum:
                gradient = rate * gradient
            buffer = momentum * buffer + gradient
            step = gradient + momentum * buffer if nesterov else buffer
            value = value - (step if lr_in_momentum else rate * step)
            history[name].append(value)
    return {name: np.stack(values) for name, values in history.items()}


@pytest.mark.parametrize("case", optim_oracles.SGD_CASES)
def test_sgd_is_torchs_step_by_step(case):
    reference = {name: expected("sgd_torch")[f"{case}_{name}"] for name in ("kernel", "bias")}
    assert_follows(optim.sgd(changing_rate, **optim_oracles.SGD_CASES[case]), reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", optim_oracles.ADAMW_CASES)
def test_adamw_is_torchs_step_by_step(case):
    reference = {name: expected("adamw_torch")[f"{case}_{name}"] for name in ("kernel", "bias")}
    settings = dict(optim_oracles.ADAMW_CASES[case])
    b1, b2 = settings.pop("betas")
    assert_follows(optim.adamw(changing_rate, b1=b1, b2=b2, **settings), reference, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("lr_in_momentum", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_lars_by_hand_step_by_step(lr_in_momentum, nesterov):
    settings = {"momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov, "lr_in_momentum": lr_in_momentum}
    reference = lars_by_hand(RATES, trust=0.02, **settings)
    assert_follows(optim.lars(changing_rate, trust_coefficient=0.02, **settings), reference, rtol=1e-5, atol=1e-6)


def test_lars_conventions_agree_until_the_rate_changes():
    inside, outside = (
        trajectory(optim.lars(changing_rate, lr_in_momentum=where, trust_coefficient=0.1)) for where in (True, False)
    )
    changed = int(np.flatnonzero(np.diff(RATES))[0]) + 1
    for name, values in inside.items():
        np.testing.assert_allclose(values[:changed], outside[name][:changed], rtol=1e-5, atol=1e-6)
        assert np.abs(values[changed] - outside[name][changed]).max() > 1e-3


def test_lars_without_a_mask_adapts_biases_too():
    settings = {"momentum": 0.9, "weight_decay": 0.1, "lr_in_momentum": False}
    reference = lars_by_hand([0.5] * STEPS, trust=0.02, adapted=("kernel", "bias"), **settings)
    masked = lars_by_hand([0.5] * STEPS, trust=0.02, **settings)
    assert_follows(optim.lars(0.5, trust_coefficient=0.02, mask=None, **settings), reference, rtol=1e-5, atol=1e-6)
    assert np.abs(reference["bias"] - masked["bias"]).max() > 1e-2


@pytest.mark.parametrize("zero", ["parameters", "gradients"])
def test_lars_takes_a_plain_step_where_a_norm_is_zero(zero):
    parameters = {"kernel": np.zeros((2, 2)) if zero == "parameters" else np.ones((2, 2))}
    gradients = {"kernel": np.zeros((STEPS, 2, 2)) if zero == "gradients" else np.ones((STEPS, 2, 2))}
    parameters, gradients = (jax.tree.map(np.float32, tree) for tree in (parameters, gradients))
    rule = optim.lars(0.5, lr_in_momentum=False, weight_decay=0.0)
    first = trajectory(rule, parameters, gradients)["kernel"][0]
    np.testing.assert_allclose(first, parameters["kernel"] - 0.5 * gradients["kernel"][0])


def test_sgd_decays_everything_unless_told():
    parameters = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    gradients = {"kernel": np.zeros((STEPS, 2, 2), np.float32), "bias": np.zeros((STEPS, 2), np.float32)}
    everything = trajectory(optim.sgd(0.5, weight_decay=0.1), parameters, gradients)
    np.testing.assert_allclose([everything["kernel"][0, 0, 0], everything["bias"][0, 0]], 0.95, rtol=1e-6)
    kernels = trajectory(optim.sgd(0.5, weight_decay=0.1, mask=optim.weight_mask), parameters, gradients)
    np.testing.assert_allclose(kernels["kernel"][0], 0.95, rtol=1e-6)
    np.testing.assert_array_equal(kernels["bias"], np.ones((STEPS, 2)))


def test_weight_mask_goes_by_name_and_shape():
    params = {
        "conv": {"kernel": np.ones((3, 3, 2, 4))},
        "norm": {"scale": np.ones(4), "bias": np.ones(4)},
        "attention": {"query": {"kernel": np.ones((8, 2, 4)), "bias": np.ones((2, 4))}},
        "embedding": np.ones((10, 4)),
        "blocks": [np.ones((2, 2)), np.ones(2)],
    }
    assert optim.weight_mask(params) == {
        "conv": {"kernel": True},
        "norm": {"scale": False, "bias": False},
        "attention": {"query": {"kernel": True, "bias": False}},
        "embedding": True,
        "blocks": [True, False],
    }
    assert optim.weight_mask(np.ones((2, 2))) is True


def test_optimisers_run_on_every_mesh(each_mesh):
    parameters, gradients = parameters_and_gradients()
    rules = {
        "sgd": optim.sgd(changing_rate),
        "lars": optim.lars(optim.cosine(0.3, STEPS, 2), lr_in_momentum=True),
        "adamw": optim.adamw(optim.step_decay(0.1, [2]), weight_decay=0.1),
    }
    for rule in rules.values():
        result = trajectory(rule, sharding.gather(jax.tree.map(jnp.asarray, parameters)), gradients)
        assert all(np.isfinite(values).all() for values in result.values())
        assert np.abs(result["kernel"][-1] - parameters["kernel"]).max() > 1e-4


def rates(schedule, steps=12):
    return [float(schedule(step)) for step in range(steps)]


def test_schedules_are_torchs_value_by_value():
    reference = expected("schedules_torch")
    np.testing.assert_allclose(rates(optim.step_decay(0.3, [3, 4, 9])), reference["steps"], rtol=1e-6)
    cosine = optim.cosine(0.3, 12, final=0.02)
    np.testing.assert_allclose(rates(cosine), reference["cosine"], rtol=1e-6)
    warm = optim.cosine(0.3, 12, warmup_steps=4)
    np.testing.assert_allclose(rates(warm), reference["warm_cosine"], rtol=1e-5, atol=1e-7)


def test_schedules_outside_their_range_and_under_jit():
    schedule = jax.jit(optim.cosine(0.3, 12, warmup_steps=4, final=0.1))
    assert schedule(jnp.int32(0)) == 0
    np.testing.assert_allclose(schedule(jnp.int32(4)), 0.3, rtol=1e-6)
    np.testing.assert_allclose([schedule(jnp.int32(step)) for step in (12, 13, 10**6)], 0.1, rtol=1e-6)
    decay = jax.jit(optim.step_decay(0.3, [], 0.1))
    np.testing.assert_allclose(decay(jnp.int32(10**6)), 0.3, rtol=1e-6)
    assert schedule(jnp.int32(1)).dtype == decay(jnp.int32(1)).dtype == jnp.float32


def test_fairs_schedule_steps_once_an_epoch():
    schedule = optim.per_epoch(optim.cosine(0.06, 4), steps_per_epoch=3)
    by_hand = [0.06 * 0.5 * (1 + np.cos(np.pi * (step // 3) / 4)) for step in range(12)]
    np.testing.assert_allclose(rates(schedule), by_hand, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(7)), by_hand[7], rtol=1e-5)


@pytest.mark.parametrize(("base", "batch", "linear"), [(0.03, 256, 0.03), (0.3, 4096, 4.8), (0.05, 512, 0.1)])
def test_scaling_rules(base, batch, linear):
    np.testing.assert_allclose(optim.scaled_lr(base, batch), linear)
    np.testing.assert_allclose(optim.sqrt_scaled_lr(base, batch), base * batch**0.5)
    np.testing.assert_allclose(optim.scaled_lr(base, batch, reference=batch), base)
    np.testing.assert_allclose(optim.sqrt_scaled_lr(base, 4 * batch, reference=batch), 2 * base)


def test_what_cannot_be_is_refused():
    for warmup in (-1, 10, 11):
        with pytest.raises(BadInputError, match=f"warmup_steps={warmup}"):
            optim.cosine(0.1, 10, warmup)
    with pytest.raises(BadInputError, match="steps_per_epoch=0"):
        optim.per_epoch(optim.cosine(0.1, 10), 0)
    with pytest.raises(BadInputError, match="momentum=1"):
        optim.sgd(0.1, momentum=1.0)
    with pytest.raises(BadInputError, match="momentum=-1"):
        optim.lars(0.1, lr_in_momentum=True, momentum=-1.0)
    with pytest.raises(BadInputError, match="b2=1"):
        optim.adamw(0.1, weight_decay=0.1, b2=1.0)
