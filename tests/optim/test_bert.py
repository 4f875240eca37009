"""BERT's AdamW and rates against NumPy in float64, LAMB against timm's, which follows NVIDIA's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax import optim, sharding
from ssljax.types import BadInputError
from tests.oracles import expected, masked_oracles
from tests.oracles.masked_oracles import PHASE_2, RATES, STEPS, lamb_inputs


def changing_rate(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def trajectory(rule):
    """The parameters after each step, `{name: [STEPS, ...]}`."""
    start, gradients = lamb_inputs()
    parameters: Any = sharding.gather(jax.tree.map(jnp.asarray, start))
    state, history = rule.init(parameters), []

    @jax.jit
    def update(parameters, state, gradient):
        updates, state = rule.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    for step in range(STEPS):
        parameters, state = update(parameters, state, {name: g[step] for name, g in gradients.items()})
        history.append(parameters)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *history)


def bert_adamw_by_hand(weight_decay=0.01, b1=0.9, b2=0.999, eps=1e-6, clip=1.0, decayed=("kernel", "table", "zeros")):
    parameters, gradients = lamb_inputs()
    values = {name: value.astype(np.float64) for name, value in parameters.items()}
    mean = {name: np.zeros_like(value) for name, value in values.items()}
    square = {name: np.zeros_like(value) for name, value in values.items()}
    history = {name: [] for name in values}
    for step, rate in enumerate(RATES):
        norm = np.sqrt(sum((g[step].astype(np.float64) ** 2).sum() for g in gradients.values()))
        for name in values:
            gradient = gradients[name][step].astype(np.float64) * min(1.0, clip / norm)
            mean[name] = b1 * mean[name] + (1 - b1) * gradient
            square[name] = b2 * square[name] + (1 - b2) * gradient**2
            change = mean[name] / (np.sqrt(square[name]) + eps)
            if name in decayed:
                change = change + weight_decay * values[name]
            values[name] = values[name] - rate * change
            history[name].append(values[name])
    return {name: np.stack(steps) for name, steps in history.items()}


def assert_follows(rule, reference, rtol=1e-5, atol=2e-6):
    for name, values in trajectory(rule).items():
        np.testing.assert_allclose(values, reference[name], rtol=rtol, atol=atol, err_msg=name)


OTHER = {"weight_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "clip": 0.3}


@pytest.mark.parametrize("settings", [{}, OTHER, {"clip": 1e9}])
def test_bert_adamw_by_hand_step_by_step(settings):
    assert_follows(optim.bert_adamw(changing_rate, **settings), bert_adamw_by_hand(**settings))


def test_bert_adamw_without_clip_or_mask():
    assert_follows(optim.bert_adamw(changing_rate, clip=None), bert_adamw_by_hand(clip=1e9))
    everything = bert_adamw_by_hand(decayed=tuple(lamb_inputs()[0]), weight_decay=0.3)
    assert_follows(optim.bert_adamw(changing_rate, mask=None, weight_decay=0.3), everything)


def test_some_steps_are_clipped_and_some_are_not():
    _, gradients = lamb_inputs()
    norms = np.sqrt(sum((g**2).sum(axis=tuple(range(1, g.ndim))) for g in gradients.values()))
    assert (norms > 1).any()
    assert (norms < 1).any()


def test_the_first_step_of_bert_adamw_is_three_times_adams():
    gradient = {"kernel": jnp.full((2, 2), 0.01)}
    parameters = {"kernel": jnp.zeros((2, 2))}
    rules = (optim.bert_adamw(1.0), optim.adamw(1.0, weight_decay=0.0))
    updates: Any = [rule.update(gradient, rule.init(parameters), parameters)[0] for rule in rules]
    np.testing.assert_allclose(updates[0]["kernel"] / updates[1]["kernel"], 0.1 / np.sqrt(0.001), rtol=1e-2)


@pytest.mark.parametrize("case", [*masked_oracles.LAMB_CASES, "restarted"])
def test_lamb_is_timms_step_by_step(case):
    restarts = (PHASE_2,) if case == "restarted" else ()
    settings = dict(masked_oracles.LAMB_CASES.get(case, {}))
    if settings:
        (settings["b1"], settings["b2"]), settings["clip"] = settings.pop("betas"), settings.pop("max_grad_norm")
    reference = {name: expected("lamb_timm")[f"{case}_{name}"] for name in lamb_inputs()[0]}
    assert_follows(optim.lamb(changing_rate, restarts=restarts, **settings), reference)


def test_restarts_change_lamb_from_their_step_on():
    plain, restarted = (trajectory(optim.lamb(changing_rate, restarts=steps)) for steps in ((), (1, PHASE_2)))
    np.testing.assert_array_equal(plain["bias"][:1], restarted["bias"][:1])
    assert np.abs(plain["bias"][1] - restarted["bias"][1]).max() > 1e-3
    # the correction of the steps after the last restart depends on it alone
    once = trajectory(optim.lamb(changing_rate, restarts=(PHASE_2,)))
    moves = [np.diff(run["bias"], axis=0)[PHASE_2 - 1 :] for run in (restarted, once)]
    np.testing.assert_allclose(*moves, rtol=1e-4, atol=1e-6)


def test_a_tensors_step_has_its_own_norm_under_lamb():
    parameters: Any = {"kernel": jnp.full((3, 4), 2.0), "bias": jnp.full(3, 2.0)}
    gradients = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(3)}
    rule = optim.lamb(0.5, weight_decay=0.0)
    updates: Any = rule.update(gradients, rule.init(parameters), parameters)[0]
    np.testing.assert_allclose(updates["kernel"], -0.5 * 2.0, rtol=1e-4)
    np.testing.assert_allclose(updates["bias"], -0.5, rtol=1e-4)


def test_the_optimisers_run_on_every_mesh(each_mesh):
    assert_follows(optim.bert_adamw(changing_rate), bert_adamw_by_hand())
    reference = {name: expected("lamb_timm")[f"nvidia_{name}"] for name in lamb_inputs()[0]}
    assert_follows(optim.lamb(changing_rate), reference)


def official_rate(step, base, total, warmup):
    """Google's formula with its own operations, in float64."""
    is_warmup = float(step < warmup)
    line = base * (1 - min(step, total) / total)
    return (1 - is_warmup) * line + is_warmup * base * (step / max(warmup, 1))


@pytest.mark.parametrize(("total", "warmup"), [(40, 7), (40, 0), (1, 0), (1_000_000, 10_000)])
def test_linear_with_warmup_is_googles_value_by_value(total, warmup):
    steps = np.r_[np.linspace(0, 1.1 * total + 3, 50).astype(int), warmup, max(warmup - 1, 0), total]
    found = jax.vmap(optim.linear_with_warmup(1e-4, total, warmup))(jnp.asarray(steps))
    reference = [official_rate(step, 1e-4, total, warmup) for step in steps.tolist()]
    np.testing.assert_allclose(found, reference, rtol=1e-6)


def test_the_decay_counts_from_step_0_under_the_warmup():
    schedule = optim.linear_with_warmup(1.0, 100, 20)
    np.testing.assert_allclose([schedule(19), schedule(20), schedule(21)], [0.95, 0.8, 0.79], rtol=1e-6)


def nvidia_rates(base, total, warmup):
    """The scheduler's loop: it moves before each update, from epoch 0 to 1 for the first one."""
    rates = []
    for epoch in range(1, total + 1):
        progress = epoch / total
        rates.append(base * progress / warmup if progress < warmup else base * (1 - progress) ** 0.5)
    return rates


def test_nvidias_two_phases_value_by_value():
    schedule = optim.in_phases(
        (7038, optim.polynomial_with_warmup(6e-3, 7038, 0.2843)),
        (1563, optim.polynomial_with_warmup(4e-3, 1563, 0.128)),
    )
    reference = nvidia_rates(6e-3, 7038, 0.2843) + nvidia_rates(4e-3, 1563, 0.128)
    found = jax.vmap(schedule)(jnp.arange(7038 + 1563 + 2))
    np.testing.assert_allclose(found[:-2], reference, rtol=1e-5)
    np.testing.assert_array_equal(found[-2:], 0)
    assert np.argmax(reference) == int(0.2843 * 7038) - 1


def test_phases_follow_each_other():
    schedule = optim.in_phases((3, optim.linear_with_warmup(1.0, 3)), (2, lambda step: 10.0 + step), (1, lambda s: s))
    np.testing.assert_allclose([schedule(step) for step in range(8)], [1, 2 / 3, 1 / 3, 10, 11, 0, 1, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.bert_adamw(1.0, b1=1.0), "b1=1.0"),
        (lambda: optim.bert_adamw(1.0, clip=0.0), "clip=0.0"),
        (lambda: optim.lamb(1.0, b2=-0.1), "b2=-0.1"),
        (lambda: optim.lamb(1.0, clip=-1.0), "clip=-1.0"),
        (lambda: optim.lamb(1.0, restarts=(0,)), "restarts"),
        (lambda: optim.lamb(1.0, restarts=(5, 5)), "restarts"),
        (lambda: optim.linear_with_warmup(1.0, 5, 5), "warmup_steps=5"),
        (lambda: optim.linear_with_warmup(1.0, 5, -1), "warmup_steps=-1"),
        (lambda: optim.polynomial_with_warmup(1.0, 0, 0.1), "total_steps=0"),
        (lambda: optim.polynomial_with_warmup(1.0, 5, 1.0), "warmup=1.0"),
        (lambda: optim.in_phases(), "at least one phase"),
        (lambda: optim.in_phases((0, lambda step: step)), "at least one phase"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(BadInputError, match=message):
        make()
