"""Whole runs of a dense model: the same however many steps a dispatch has and wherever the data lies."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.run import experiment, pretraining, running
from ssljax.run.experiment import RunConfig
from ssljax.train import loop
from ssljax.train.guard import DivergedError
from ssljax.train.hosts import interruption
from ssljax.train.logging import read_metrics
from ssljax.train.profile import Profile
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from ssljax.types import BadInputError
from tests.train import dense

EVERY = {"log_every": 5, "save_every": 1, "eval_every": 2, "compiler_check": False, "stall_timeout": 0}
TIMES = {"examples_per_second", "input_wait", "host_gap_ms", "seconds"}


def run(workdir, recipe, **options):
    config = RunConfig(**{"workdir": str(workdir), "devices": 1, **EVERY, **options})
    experiment.run(config, recipe)
    return outcome(workdir)


def outcome(workdir):
    """The log without times."""
    rows = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_same(found, wanted):
    """Up to the last bits, in which programs that fuse differently differ."""
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"), dense.recipe(resident=False))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_run_is_the_same_however_many_steps_a_dispatch_has(tmp_path, plain, steps, monkeypatch):
    sizes = counted(monkeypatch)
    found = run(tmp_path, dense.recipe(), steps_per_dispatch=steps)
    assert_same(found, plain)
    if steps == 1:  # as a CPU does unasked: the very program of the streamed path
        assert found == plain
    assert [row["step"] for row in found] == [5, 10, 15, 20]
    assert sizes == {1: [1] * 20, 2: [2, 2, 1] * 4, 5: [5] * 4}[steps]


def counted(monkeypatch):
    """How many steps each dispatch of the runs that follow has."""
    sizes, fit = [], pretraining.fit

    def counting(state, step, *args, **options):
        def call(state, batch, steps=1):
            sizes.append(steps)
            return step(state, batch, steps=steps)

        return fit(state, call, *args, **options)

    monkeypatch.setattr(pretraining, "fit", counting)
    return sizes


@contextlib.contextmanager
def stopped(monkeypatch, at):
    """The run inside is asked to stop at step `at`, and does within a dispatch."""
    boundary = running.Running.boundary

    def signalled(running, step, state):
        if step >= at:
            monkeypatch.setattr(interruption.Interruption, "should_stop", lambda self, step: True)
        boundary(running, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(running.Running, "boundary", signalled)
        with pytest.raises(interruption.Interrupted, match=rf"Stopped by .* at step ({at}|{at + 2}); .* saved"):
            yield
    monkeypatch.undo()


@pytest.mark.parametrize("steps", [1, 4])
def test_interrupted_at_any_step_it_ends_the_same(tmp_path, plain, steps, monkeypatch):
    with stopped(monkeypatch, at=7):
        run(tmp_path, dense.recipe(), steps_per_dispatch=steps)
    assert_same([row for row in run(tmp_path, dense.recipe(), steps_per_dispatch=5) if row["step"] % 5 == 0], plain)


def stretch():
    """One picture of each of the second epoch's five batches, and one of the first's second."""
    samples = dense.recipe().task().samples
    return [samples(1, 0)[0], *(samples(step, 0)[0] for step in range(5, 10))]


def test_discarded_updates_and_roll_backs_are_the_same(tmp_path, capsys):
    # what was dropped of the second epoch by the first one's shuffle is there again in others: every run tells its own
    white, found = stretch(), []
    for steps in (1, 5):
        with contextlib.suppress(DivergedError):
            run(tmp_path / str(steps), dense.recipe(white), steps_per_dispatch=steps)
        names = ("step", "discarded_samples", "rolled_back_from")
        rows = outcome(tmp_path / str(steps))
        told = [{name: row[name] for name in names if name in row} for row in rows]
        found.append([row for row in told if len(row) > 1])
    assert found[0] == found[1]
    assert any("rolled_back_from" in row for row in found[0])


def test_losses_are_those_of_the_streamed_path_on_any_mesh(each_mesh):
    losses = []
    for resident in (True, False):
        recipe = dense.recipe(resident=resident)
        task, method, optimizer = dense.parts(recipe)
        state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed=0)
        step = compile_step(method, recipe.views, optimizer)
        losses.append([])
        for batch in dense.undrawn(task, 0, 12, 0):
            state, metrics = step(state, batch)
            losses[-1].append(float(metrics["loss"]))
    np.testing.assert_allclose(*losses, rtol=2e-6, atol=2e-7)
    assert len(set(losses[0])) == 12


@pytest.mark.parametrize("devices", [1, 8])
def test_several_steps_keep_the_state_s_layout_on_a_mesh(devices):
    with sharding.use_mesh(sharding.make_mesh(devices)):
        recipe = dense.recipe()
        task, method, optimizer = dense.parts(recipe)
        step = compile_step(method, recipe.views, optimizer)
        ends = []
        for sizes in ((1,) * 8, (3, 5)):
            state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed=0)
            items, begun = list(dense.undrawn(task, 0, 8, 0)), 0
            for size in sizes:
                state, metrics = step(state, items[begun], steps=size)
                begun += size
            ends.append((state, metrics["loss"]))
        one, other = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), end) for end in ends)
        assert jax.tree.leaves(one) == jax.tree.leaves(other)
        np.testing.assert_allclose(float(ends[0][1]), float(ends[1][1]), rtol=2e-5)
        np.testing.assert_allclose(ends[0][0].params["kernel"], ends[1][0].params["kernel"], rtol=2e-5, atol=2e-6)


def test_the_loop_moves_nothing_between_host_and_device_unasked():
    recipe = dense.recipe()
    task, method, optimizer = dense.parts(recipe)
    rows = []
    with sharding.use_mesh(sharding.make_mesh(2)):
        for steps in (1, 5):
            state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed=0)
            batches = dense.undrawn(task, 0, 20, 0)
            step_fn = compile_step(method, recipe.views, optimizer)
            with jax.transfer_guard("disallow"):
                with pytest.raises(Exception, match=r"[Dd]isallowed"):
                    jnp.add(jnp.float32(1), np.ones(3, np.float32))  # the guard is there
                loop.fit(
                    state,
                    step_fn,
                    batches,
                    total_steps=20,
                    log_every=5,
                    log=lambda step, metrics: rows.append(metrics),
                    steps_per_dispatch=steps,
                )
    assert len(rows) == 2 * 4
    assert all(row["lr"] >= 0 for row in rows)
    assert all(row["host_gap_ms"] >= 0 for row in rows[1:4])  # the first dispatch of a run has none before it


def test_how_many_steps_fit_between_what_the_host_has_to_do(monkeypatch):
    assert loop.dispatch_size(None, (50, 100)) == 1  # a CPU
    assert loop.dispatch_size(8, (50, 100)) == 8
    for asked in (0, 9):
        with pytest.raises(BadInputError, match=f"steps_per_dispatch={asked}: give 1 to 8"):
            loop.dispatch_size(asked, (50, 100))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for intervals, most in (((50, 970), 5), ((50, 97), 1), ((48, 96), 8), ((7, 14), 7)):
        assert loop.dispatch_size(None, intervals) == most


def test_a_profile_holds_the_steps_asked_for(tmp_path):
    import gzip
    import json

    run(tmp_path, dense.recipe(), profile=3)
    (trace,) = (tmp_path / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert any("train" in name and "jit" in name.lower() for name in names)
    numbers = {int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})}
    assert numbers == {5, 6, 7}


def test_no_profile_unless_asked_and_one_that_fits_a_short_run(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *args, **options: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def steps(number, first, last):
        calls.clear()
        profile = Profile(str(tmp_path), number, first=first, last=last)
        for step in range(first + 1, last + 1):
            if profile.due(step):
                profile.boundary(step, None)
            calls.append(step)
        profile.close()
        return list(calls)

    assert steps(0, 3, 6) == [4, 5, 6]
    assert steps(2, 0, 9) == [1, 2, 3, 4, "start", 5, 6, "stop", 7, 8, 9]
    assert steps(9, 4, 6) == ["start", 5, "stop", 6]
