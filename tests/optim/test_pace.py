"""A run's pace gives what the recipes computed from the schedules themselves, to the last bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax import ema, optim
from ssljax.optim import Pace
from ssljax.types import BadInputError

EPOCHS, STEPS_PER_EPOCH = st.integers(1, 300), st.integers(1, 5000)
VALUES = st.floats(1e-8, 10.0)


@st.composite
def paces(draw):
    """A pace, a warm-up in epochs that fits, and steps: the seams and any."""
    pace = Pace(draw(EPOCHS), draw(STEPS_PER_EPOCH))
    warmup = draw(st.integers(0, pace.epochs - 1))
    seams = [0, warmup * pace.steps_per_epoch, pace.steps]
    steps = {max(seam + shift, 0) for seam in seams for shift in (-1, 0, 1)} | {draw(st.integers(0, 2 * pace.steps))}
    return pace, warmup, sorted(steps)


def assert_same(ours, theirs, steps):
    for step in steps:
        ours_now, theirs_now = ours(jnp.int32(step)), theirs(jnp.int32(step))
        assert ours_now.dtype == theirs_now.dtype == jnp.float32
        assert ours_now.shape == ()
        assert float(ours_now) == float(theirs_now), step


@settings(deadline=None, max_examples=25)
@given(paces(), VALUES, VALUES)
def test_cosine(case, peak, end):
    pace, warmup, steps = case
    theirs = optim.cosine(peak, pace.epochs * pace.steps_per_epoch, warmup * pace.steps_per_epoch, end)
    assert_same(pace.cosine(peak, warmup, end), theirs, steps)
    theirs = optim.per_epoch(optim.cosine(peak, pace.epochs, warmup, end), pace.steps_per_epoch)
    assert_same(pace.cosine(peak, warmup, end, per_epoch=True), theirs, steps)


@settings(deadline=None, max_examples=25)
@given(paces(), VALUES)
def test_line(case, peak):
    pace, warmup, steps = case
    total = pace.epochs * pace.steps_per_epoch
    theirs = optim.linear_with_warmup(peak, total, warmup * pace.steps_per_epoch)
    assert_same(pace.line(peak, warmup), theirs, steps)
    updates = Pace(total, 1)
    assert_same(updates.line(peak, warmup * pace.steps_per_epoch), theirs, steps)


@settings(deadline=None, max_examples=25)
@given(paces(), VALUES, st.lists(st.integers(0, 300), max_size=4), st.floats(0.01, 1.0))
def test_decay(case, start, milestones, factor):
    pace, _, steps = case
    theirs = optim.per_epoch(optim.step_decay(start, milestones, factor), pace.steps_per_epoch)
    assert_same(pace.decay(start, milestones, factor), theirs, steps)


@settings(deadline=None, max_examples=25)
@given(paces(), st.floats(0.0, 1.0))
def test_rising(case, base):
    pace, _, steps = case
    total = pace.epochs * pace.steps_per_epoch
    assert_same(pace.rising(base), lambda step: ema.cosine_momentum(base, step, total), steps)


def test_constant():
    assert_same(Pace(2, 3).constant(0.1), lambda step: jnp.float32(0.1), range(8))


def test_schedules_are_traced_with_the_step():
    pace = Pace(4, 3)
    made = [pace.cosine(1.0, 1), pace.line(1.0, 1), pace.decay(1.0, [2]), pace.rising(0.9), pace.constant(2.0)]
    made.append(pace.cosine(1.0, 1, 0.1, per_epoch=True))
    for schedule in made:
        traced = [float(jax.jit(schedule)(jnp.int32(step))) for step in range(14)]
        np.testing.assert_allclose(traced, [float(schedule(step)) for step in range(14)], rtol=1e-6)


def test_a_schedule_may_rise():
    # DINO's weight decay
    schedule = Pace(10, 10).cosine(0.04, end=0.4)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 50, 100)], [0.04, 0.22, 0.4], rtol=1e-6)


def test_a_pace_is_a_value():
    assert Pace(3, 4) == Pace(epochs=3, steps_per_epoch=4) != Pace(4, 3)
    assert {Pace(3, 4): "found"}[Pace(3, 4)] == "found"
    assert Pace(3, 4).steps == 12
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pace(3, 4).epochs = 5  # type: ignore[misc]


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInputError, match="epochs=0"):
        Pace(0, 3)
    with pytest.raises(BadInputError, match="steps_per_epoch=0"):
        Pace(3, 0)
    for warmup in (-1, 3, 4):
        for make in (Pace(3, 2).cosine, Pace(3, 2).line):
            with pytest.raises(BadInputError, match=f"warmup_epochs={warmup}: .* epochs=3"):
                make(1.0, warmup)
        with pytest.raises(BadInputError, match=f"warmup_steps={warmup}: .* steps=3"):
            Pace(3, 1).line(1.0, warmup)
    with pytest.raises(BadInputError, match="momentum=2"):
        Pace(3, 2).rising(2)
