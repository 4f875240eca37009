"""What an optimiser says of itself: the schedules it follows, and how many updates it has made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax import optim
from ssljax.optim import Pace
from tests.oracles import expected
from tests.oracles.optim_oracles import DECAYS, RATES, STEPS, parameters_and_gradients

PACE = Pace(4, 3)
SCHEDULES = {
    "cosine": PACE.cosine(0.3, 1),
    "per_epoch": PACE.cosine(0.3, per_epoch=True),
    "line": PACE.line(0.3, 1),
    "decay": PACE.decay(0.3, [1, 3]),
    "float": 0.3,
}
# of each, an update is the rate times the sign of a bias' gradient; Adam's epsilon is the difference from 1
RULES = {
    "sgd": lambda rate: optim.sgd(rate, momentum=0.0, weight_decay=0.0),
    "lars_inside": lambda rate: optim.lars(rate, lr_in_momentum=True, momentum=0.0),
    "lars_outside": lambda rate: optim.lars(rate, lr_in_momentum=False, momentum=0.0),
    "adamw": lambda rate: optim.adamw(rate, weight_decay=0.1),
    "bert_adamw": lambda rate: optim.bert_adamw(rate, b1=0.0, b2=0.0),
    "lamb": optim.lamb,
}
TOLERANCES = {name: 0.0 if name in ("sgd", "lars_inside", "lars_outside") else 1e-4 for name in RULES}


def moves(rule, steps=PACE.steps, gradient=1.0, start=0.0):
    """How far a bias that is put back to `start` goes at each step."""
    parameters: Any = {"bias": jnp.full((), start)}
    state, found = rule.init(parameters), []
    for _ in range(steps):
        updates, state = rule.update({"bias": jnp.full((), gradient)}, state, parameters)
        moved: Any = optax.apply_updates(parameters, updates)
        found.append(float(moved["bias"]) - start)
    return np.array(found)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", RULES)
def test_the_parameter_moves_by_the_rate_that_is_logged_for_the_step(name, schedule):
    rule = RULES[name](SCHEDULES[schedule])
    logged = np.array([float(rule.schedules["lr"](step)) for step in range(PACE.steps)])
    np.testing.assert_allclose(-moves(rule), logged, rtol=TOLERANCES[name])
    assert list(rule.schedules) == ["lr"]


def test_the_rate_that_is_logged_is_the_given_one():
    assert optim.sgd(SCHEDULES["line"]).schedules["lr"] is SCHEDULES["line"]
    rate = optim.sgd(0.3).schedules["lr"](jnp.int32(5))
    assert rate == jnp.float32(0.3)
    assert rate.dtype == jnp.float32


def test_a_scheduled_weight_decay_is_torchs_set_by_hand():
    rate, decay = (lambda step, t=table: jnp.asarray(t, jnp.float32)[step] for table in (RATES, DECAYS))
    rule = optim.adamw(rate, weight_decay=decay)
    parameters, gradients = parameters_and_gradients()
    parameters: Any = jax.tree.map(jnp.asarray, parameters)
    state = rule.init(parameters)
    for step in range(STEPS):
        updates, state = rule.update({name: g[step] for name, g in gradients.items()}, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        for name, value in parameters.items():
            reference = expected("adamw_scheduled_torch")[f"scheduled_{name}"][step]
            np.testing.assert_allclose(value, reference, rtol=1e-5, atol=2e-6)
    assert rule.schedules == {"lr": rate, "weight_decay": decay}


def test_a_scheduled_weight_decay_is_the_logged_one_at_each_step():
    decay = PACE.cosine(0.04, end=0.4)
    rule = optim.adamw(0.5, weight_decay=decay, mask=None)
    logged = np.array([float(rule.schedules["weight_decay"](step)) for step in range(PACE.steps)])
    np.testing.assert_allclose(-moves(rule, gradient=0.0, start=1.0), 0.5 * logged, rtol=1e-5)


@pytest.mark.parametrize("rate", ["cosine", "float"])
@pytest.mark.parametrize("name", RULES)
def test_every_optimiser_counts_its_updates(name, rate):
    # a parameter's name is no count
    parameters: Any = {"count": jnp.ones(()), "kernel": jnp.ones((2, 2))}
    rule = optim.chain(optim.clip_per_tensor(1.0), RULES[name](SCHEDULES[rate]))
    state = rule.init(parameters)
    for made in range(3):
        count = optim.updates_made(state)
        assert count is not None
        assert count.dtype == jnp.int32
        assert int(count) == made
        _, state = rule.update(parameters, state, parameters)
    abstract = jax.eval_shape(rule.init, parameters)
    assert jax.tree.structure(optim.updates_made(abstract)) == jax.tree.structure(0)


def test_an_update_that_is_thrown_away_is_not_counted():
    rule = optim.sgd(SCHEDULES["cosine"])
    parameters = {"kernel": jnp.ones((2, 2))}

    @jax.jit
    def update(state, keep):
        _, after = rule.update(parameters, state, parameters)
        return jax.tree.map(lambda new, old: jnp.where(keep, new, old), after, state)

    state = rule.init(parameters)
    for keep in (True, False, True):
        state = update(state, keep)
    assert int(optim.updates_made(state)) == 2  # type: ignore[arg-type]


def test_no_count_is_none():
    assert optim.updates_made(optax.sgd(0.1).init({"count": jnp.int32(3)})) is None
    assert optim.updates_made(()) is None
    # momentum of a parameter
    assert optim.updates_made(optax.trace(0.9).init({"count": jnp.int32(3)})) is None


def test_an_optimiser_goes_where_a_transformation_goes():
    parameters: Any = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    rule: Any = optim.sgd(0.5, momentum=0.0, weight_decay=0.0)
    rules = (
        optax.chain(rule, optax.scale(2.0)),
        optim.chain(rule, optax.scale(2.0)),
        optax.masked(optax.chain(rule, optax.scale(2.0)), {"kernel": True, "bias": True}),
        optax.multi_transform({"all": optax.chain(rule, optax.scale(2.0))}, "all"),
    )
    for chained in rules:
        state = chained.init(parameters)
        updates: Any = jax.jit(chained.update)(parameters, state, parameters)[0]
        np.testing.assert_array_equal(updates["kernel"], -np.ones((2, 2)))
    accumulated = optax.MultiSteps(rule, every_k_schedule=2)
    state = accumulated.init(parameters)
    sums = []
    for _ in range(4):
        updates, state = accumulated.update(parameters, state, parameters)
        sums.append(float(updates["bias"].sum()))
    assert sums == [0.0, -1.0, 0.0, -1.0]
    assert int(optim.updates_made(state)) == 2  # type: ignore[arg-type]


def test_a_chain_has_the_schedules_of_its_parts():
    decay = PACE.cosine(0.04, end=0.4)
    adamw = optim.adamw(SCHEDULES["cosine"], weight_decay=decay)
    rule = optim.chain(optim.clip_per_tensor(3.0), adamw, optim.hold_updates(None, 2))
    assert rule.schedules == {"lr": SCHEDULES["cosine"], "weight_decay": decay}
    assert optim.chain(optax.clip(1.0)).schedules == {}
    assert [bool(move) for move in moves(rule, 4)] == [False, False, True, True]
