"""What a run does before its first step, and what it leaves for later."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ssljax import sharding
from ssljax.run import experiment, pretraining, programs, running
from ssljax.run.config import RunConfig
from ssljax.train import checkpoint
from ssljax.train.state import init_state
from ssljax.types import BadInputError
from tests.train import dense

ROOT = Path(__file__).parents[2]
EVENTS = {"jaxpr_trace_duration": "trace", "backend_compile_duration": "compile"}
NOT_YET = ("grain", "matplotlib", "orbax", "scipy", "sklearn", "tensorboardX", "tensorflow_datasets", "torch")
COMMAND = f"""
import sys
from experiments import demo
from ssljax.run import pretraining

def fit(state, step, batches, **options):
    step(state, next(batches))
    print("loaded:", *sorted({{*{NOT_YET}}} & set(sys.modules)))
    raise SystemExit(0)

pretraining.fit = fit
demo.main(demo.Config, demo.build, demo.__doc__)
"""


@pytest.fixture
def events():
    """What jax traces and compiles from now on, in order, and whatever else the test adds."""
    found = []

    def note(event, duration_secs, **facts):
        if kind := EVENTS.get(event.rpartition("/")[2]):
            found.append((kind, facts["fun_name"].removeprefix("jit(").removesuffix(")")))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


def noted(monkeypatch, events, where, name):
    """Add each return of a function to the events."""
    function = getattr(where, name)

    def call(*args, **options):
        found = function(*args, **options)
        events.append(name)
        return found

    monkeypatch.setattr(where, name, call)


def run(workdir, recipe, **options):
    config = RunConfig(
        workdir=str(workdir), devices=1, stop_after=2, log_every=1, compiler_check=False, stall_timeout=0, **options
    )
    return experiment.run(config, recipe)


def test_the_programs_before_the_first_step_are_traced_and_compiled_once(tmp_path, monkeypatch, events):
    recipe = dense.recipe()
    jax.clear_caches()
    noted(monkeypatch, events, programs, "check")
    noted(monkeypatch, events, running.Running, "boundary")
    run(tmp_path, recipe)
    checked, first = events.index("check"), events.index("boundary")
    before = [event for event in events[:checked] if event[0] == "trace"]
    after = events[checked + 1 : first]
    assert [name for _, name in before if name in ("init", "train")] == ["init", "train"]
    assert [event[1] for event in after if event[0] == "trace"] == ["take"]
    assert [event[1] for event in after if event[0] == "compile"] == ["init", "take", "train"]
    assert "compile" not in [event[0] for event in events[:checked]]


def test_misfits_are_refused_before_anything_is_compiled_or_written(tmp_path, events):
    recipe, picture = dense.recipe(), jax.ShapeDtypeStruct((8, 6, 6, 3), np.float32)
    task = recipe.task()._replace(inputs=picture, features=("pooled",))
    with pytest.raises(BadInputError, match="the features 'pooled', and the method has embedding"):
        run(tmp_path / "run", dataclasses.replace(recipe, task=lambda: task))
    assert "trace" in [event[0] for event in events]
    assert "compile" not in [event[0] for event in events]
    assert not (tmp_path / "run").exists()


def test_the_first_checkpoint_is_written_after_the_first_step_is_dispatched(tmp_path, monkeypatch):
    events, write, fit = [], checkpoint._write, pretraining.fit
    monkeypatch.setattr(checkpoint, "_write", lambda *args: (events.append(f"write {args[1]}"), write(*args)))

    def noting(state, step, *args, **options):
        def call(state, batch):
            time.sleep(0.2)  # the saving thread would be first
            found = step(state, batch)
            events.append("step")
            return found

        return fit(state, call, *args, **options)

    monkeypatch.setattr(pretraining, "fit", noting)
    run(tmp_path, dense.recipe())
    assert events == ["step", "write 0", "step", "write 2"]
    assert (tmp_path / "checkpoints" / "0").is_dir()


def test_a_run_that_fails_before_its_first_step_still_saves_and_ends(tmp_path, monkeypatch):
    def failing(*args, **options):
        raise RuntimeError("no step")

    monkeypatch.setattr(pretraining, "fit", failing)
    with pytest.raises(RuntimeError, match="no step"):
        run(tmp_path, dense.recipe())
    assert (tmp_path / "checkpoints" / "0").is_dir()


@pytest.mark.parametrize("seed", [3, 2**32 - 1])
def test_the_untrained_row_is_the_state_before_the_first_step(tmp_path, seed):
    recipe, rows = dense.recipe(), {}
    task, method, optimizer = dense.parts(recipe)
    evaluated = task._replace(evaluations=lambda found: rows.update(found) or task.evaluations(found))
    run(tmp_path, dataclasses.replace(recipe, task=lambda: evaluated), seed=seed)
    with sharding.use_mesh(sharding.make_mesh(1)):
        state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed)
    np.testing.assert_array_equal(rows["untrained"].params["kernel"], state.params["kernel"])
    np.testing.assert_array_equal(rows["untrained"].aux["ema"], state.aux["ema"])
    assert not np.array_equal(rows["dense"].params["kernel"], state.params["kernel"])


@pytest.mark.slow
def test_the_first_step_waits_for_no_library_that_it_does_not_need(tmp_path, arrays):
    options = ["--workdir", str(tmp_path / "run"), "--data", arrays, "--no-compiler-check", "--stage-sizes", "1"]
    options += ["--width", "4", "--batch-size", "16", "--queue-size", "64", "--projector", "8", "8", "--devices", "1"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
