"""The loop: order of steps, late logging, hooks, resuming; the log files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax.train import logging
from ssljax.train.guard import Guard
from ssljax.train.logging import ProgressLines, RunLog, read_metrics
from ssljax.train.loop import fit
from ssljax.train.state import TrainState


def counting_step(state, batch):
    """Adds each batch's number to a running sum."""
    total = state.params["total"] + batch["x"][0]
    return dataclasses.replace(state, step=state.step + 1, params={"total": total}), {
        "loss": total,
        "guard": state.guard,
    }


def start(width=1):
    params = {"total": jnp.zeros(()), "kernel": jnp.arange(width, dtype=jnp.float32)}
    return TrainState(
        jnp.int32(0), params, {"queue": jnp.ones((2, 3))}, optax.EmptyState(), jax.random.key(7), Guard.new()
    )


def numbers(first):
    return ({"x": np.array([float(n)])} for n in iter(range(first, 1000)))


def run(state, total_steps, log_every=2, hooks=()):
    rows, ticks = [], []
    state = fit(
        state,
        counting_step,
        numbers(int(state.step)),
        total_steps=total_steps,
        log_every=log_every,
        log=lambda step, metrics: rows.append((step, metrics)),
        boundary=lambda step, state: ticks.append(step),
        hooks=hooks,
    )
    return state, rows, ticks


def test_steps_logs_and_ticks():
    state, rows, ticks = run(start(), 5)
    assert int(state.step) == 5
    assert float(state.params["total"]) == 0 + 1 + 2 + 3 + 4
    assert ticks == [1, 2, 3, 4, 5]
    assert [(step, metrics["loss"]) for step, metrics in rows] == [(2, 1.0), (4, 6.0), (5, 10.0)]
    for _, metrics in rows:
        assert metrics["examples_per_second"] > 0
        assert 0 <= metrics["input_wait"] <= 1


def test_a_later_start_continues():
    halfway, *_ = run(start(), 3)
    state, rows, ticks = run(halfway, 5)
    assert float(state.params["total"]) == 10
    assert ticks == [4, 5]
    assert [step for step, _ in rows] == [4, 5]


def test_a_finished_run_does_nothing():
    state, _, _ = run(start(), 3)
    again, rows, ticks = run(state, 3)
    assert again is state
    assert rows == ticks == []


def test_hooks_run_at_their_intervals_and_at_the_end():
    seen = []
    run(start(), 5, hooks=((2, lambda step, state: seen.append((step, int(state.step)))),))
    assert seen == [(2, 2), (4, 4), (5, 5)]


def test_logging_reads_figures_one_interval_late():
    """When the line of step 2 is written, step 4 has been dispatched: logging waits for nothing that is running."""
    dispatched, at_log = [], []

    def step_fn(state, batch):
        dispatched.append(int(state.step) + 1)
        return counting_step(state, batch)

    fit(
        start(),
        step_fn,
        numbers(0),
        total_steps=6,
        log_every=2,
        log=lambda step, metrics: at_log.append((step, dispatched[-1])),
    )
    assert at_log == [(2, 4), (4, 6), (6, 6)]


def test_a_step_is_logged_before_a_hook_can_save_it():
    events = []
    fit(
        start(),
        counting_step,
        numbers(0),
        total_steps=6,
        log_every=2,
        log=lambda step, metrics: events.append(("row", step)),
        hooks=((3, lambda step, state: events.append(("save", step))),),
    )
    assert events == [("row", 2), ("save", 3), ("row", 4), ("row", 6), ("save", 6)]


def open_log(path, start_step=0):
    return RunLog(str(path), total_steps=10, start_step=start_step, title="test", show_bar=False)


def test_the_log_keeps_rows_merges_steps_and_writes_no_nan(tmp_path):
    log = open_log(tmp_path)
    log.write(2, {"loss": 1.5})
    log.write(4, {"loss": float("nan")})
    log.write(4, {"knn": 50.0})
    log.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"], row.get("knn")) for row in rows] == [(2, 1.5, None), (4, None, 50.0)]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_resumed_log_drops_what_comes_after_the_checkpoint_and_a_torn_line(tmp_path):
    log = open_log(tmp_path)
    for step in (2, 4, 6):
        log.write(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    log = open_log(tmp_path, start_step=4)
    log.write(6, {"loss": 60.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in lines] == [(2, 2.0), (4, 4.0), (6, 60.0)]


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def test_without_a_terminal_progress_is_a_line_every_thirty_seconds(capsys):
    clock = Clock()
    lines = ProgressLines(1000, 100, "toy", clock)
    lines.set_postfix({"loss": "0.5"}, refresh=False)
    for second in range(1, 101):
        clock.now = float(second)
        lines.update(4)
    lines.write("said")
    found = capsys.readouterr()
    assert found.out == "said\n"
    assert found.err.splitlines() == [f"toy: step {n}/1000, loss 0.5, 4 steps/s" for n in (220, 340, 460)]
    lines.close()
    lines.close()
    assert capsys.readouterr().err == "toy: step 500/1000, loss 0.5, 4 steps/s\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_for_terminals_only(tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(logging.sys.stderr, "isatty", lambda: terminal, raising=False)
    log = RunLog(str(tmp_path), total_steps=10, start_step=0, title="test")
    assert isinstance(log.bar, ProgressLines) is not terminal
    log.write(5, {"loss": 0.25})
    log.update_progress(5)
    log.say("a line")
    log.close()
    found = capsys.readouterr()
    assert "a line" in found.out + found.err
    assert ("\r" in found.err) is terminal
    if not terminal:
        assert found.err.startswith("test: step 5/10, loss 0.25, ")


def test_rows_after_a_rollback_take_the_place_of_the_first_ones(tmp_path):
    log = open_log(tmp_path)
    for step in (2, 4, 6):
        log.write(step, {"loss": float(step)})
    for step, metrics in ((2, {"rolled_back_from": 7}), (3, {"knn": 1.0}), (4, {"loss": 40.0})):
        log.write(step, metrics)
    assert [(row["step"], row.get("loss")) for row in log.rows] == [(2, 2.0), (3, None), (4, 40.0), (6, 6.0)]
    assert log.row(4)["loss"] == 40
    assert log.row(5) == {}
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == log.rows
