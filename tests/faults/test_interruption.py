"""A signal ends a run with 75 at the next step boundary or after the grace period, whatever the run is doing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ssljax.train.hosts import exits, heartbeat, interruption
from tests.faults.runs import Run, saved, started, two


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_training_it_saves_at_the_next_step_boundary(tmp_path, number):
    with started(Run("train", tmp_path)) as (run,):
        run.wait_for("training")
        began = time.monotonic()
        run.process.send_signal(number)
        code, said = run.end()
        assert code == exits.EXIT_INTERRUPTED == 75
        assert time.monotonic() - began < 10
        assert (
            f"Stopped by {number.name} at step {saved(tmp_path)}; the checkpoint is saved, "
            "run the same command to resume." in said
        )
        assert "Traceback" not in said


def test_while_compiling_it_exits_after_the_grace_period(tmp_path):
    with started(Run("compile", tmp_path, TOY_GRACE="1.5")) as (run,):
        run.wait_for("compiling")
        began = time.monotonic()
        run.process.terminate()
        code, said = run.end()
        assert code == 75
        assert 1.4 < time.monotonic() - began < 10
        assert (
            "Stopped by SIGTERM during compilation: no step has finished within 1.5 s; run the same command again."
            in said
        )


def test_an_evaluation_is_aborted_and_the_state_before_it_saved(tmp_path):
    with started(Run("evaluate", tmp_path)) as (run,):
        run.wait_for("evaluating")
        began = time.monotonic()
        run.process.terminate()
        code, said = run.end()
        assert code == 75
        assert time.monotonic() - began < 10
        assert saved(tmp_path) == 5
        assert "Stopped by SIGTERM at step 5; the checkpoint is saved, run the same command to resume." in said


def test_an_interrupted_evaluation_after_the_training_names_the_step_to_resume_from(tmp_path):
    with started(Run("last evaluation", tmp_path)) as (run,):
        run.wait_for("evaluating")
        run.process.terminate()
        code, said = run.end()
        assert code == 75
        assert "Stopped by SIGTERM during evaluation; run the same command to resume from step 5." in said


@pytest.mark.parametrize(
    ("saved_steps", "hint"),
    [
        ((), "run the same command again"),
        ((None,), "nothing is saved yet, the same command starts again"),
        ((None, 0, 500), "run the same command to resume from step 500"),
    ],
)
def test_the_message_names_signal_phase_and_step(tmp_path, saved_steps, hint):
    with interruption.watch() as stop, heartbeat.watch(tmp_path, None, 0, 1) as reported:
        signal.raise_signal(signal.SIGINT)
        for step in saved_steps:
            stop.record_saved(step)
        assert stop.message() == f"Stopped by SIGINT while starting; {hint}."
        with reported.busy("compiling"):
            assert stop.message() == f"Stopped by SIGINT during compilation; {hint}."
        reported.step(1)
        assert stop.message("why") == f"Stopped by SIGINT during training: why; {hint}."
        for phase, words in (("evaluating", "during evaluation"), ("saving", "while saving")):
            with reported.busy(phase):
                assert stop.message() == f"Stopped by SIGINT {words}; {hint}."
        assert stop.message() == f"Stopped by SIGINT during training; {hint}."


def test_a_save_is_finished_first(tmp_path):
    with started(Run("save", tmp_path)) as (run,):
        run.wait_for("saving")
        run.process.terminate()
        code, said = run.end()
        assert code == 75
        assert "Stopped by SIGTERM at step 6; the checkpoint is saved" in said
        assert saved(tmp_path) == 6


def test_a_second_signal_exits_immediately_and_keeps_what_is_committed(tmp_path):
    with started(Run("endless save", tmp_path)) as (run,):
        run.wait_for("saving")
        run.process.terminate()
        run.process.terminate()  # `timeout` sends one signal twice
        time.sleep(1)
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        code, said = run.end()
        assert code == 75
        assert time.monotonic() - began < 5
        assert (
            "Stopped by SIGTERM while saving: a second signal (SIGINT) came; "
            "run the same command to resume from step 5." in said
        )
        assert saved(tmp_path) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "phase", "number", "victim"),
    [("train", "training", signal.SIGTERM, 1), ("slow set-up", "set-up", signal.SIGINT, 0)],
)
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path, mode, phase, number, victim):
    with two(mode, tmp_path) as runs:
        for run in runs:
            run.wait_for(phase)
        runs[victim].process.send_signal(number)
        for index, run in enumerate(runs):
            code, said = run.end()
            assert code == 75, said[-3000:]
            assert f" at step {saved(tmp_path, index)}; the checkpoint is saved" in said
            assert f"Stopped by {number.name if index == victim else f'{number.name} to another process'} at" in said
        assert saved(tmp_path, 0) == saved(tmp_path, 1)


@pytest.mark.slow
def test_when_no_step_ends_both_processes_exit_after_the_grace_period_of_the_one_signalled(tmp_path):
    with two("compile", tmp_path, TOY_GRACE="2", TOY_STALL="60") as runs:
        for run in runs:
            run.wait_for("compiling")
        runs[1].process.terminate()
        for run, whose in zip(runs, ("SIGTERM to another process", "SIGTERM"), strict=True):
            code, said = run.end()
            assert code == 75, said[-3000:]
            assert f"Stopped by {whose} during compilation: no step has finished within 2 s" in said


def test_it_raises_only_where_it_is_interruptible():
    with interruption.watch() as stop:
        assert not stop.should_stop(1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.should_stop(2)
        assert stop.requested
        assert interruption.current() is stop
        with pytest.raises(interruption.Interrupted, match="SIGTERM"), stop.interruptible():
            raise AssertionError("a signal that came before counts")


def test_within_a_save_it_waits_and_raises_after_it():
    reached = []

    def save(stop):
        with stop.interruptible():
            with stop.uninterruptible():
                signal.raise_signal(signal.SIGINT)
                reached.append("end of the save")
            reached.append("behind")

    with interruption.watch() as stop, pytest.raises(interruption.Interrupted):
        save(stop)
    assert reached == ["end of the save"]


def test_the_previous_handlers_are_restored():
    came = []
    before = {number: signal.getsignal(number) for number in exits.SIGNALS}
    signal.signal(signal.SIGTERM, lambda *_: came.append("ours"))
    try:
        with interruption.watch() as outer, interruption.watch() as inner:
            assert inner is outer
            signal.raise_signal(signal.SIGTERM)
        assert came == []
        signal.raise_signal(signal.SIGTERM)
        assert came == ["ours"]
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert {number: signal.getsignal(number) for number in exits.SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not interruption.current().requested


def test_outside_the_main_thread_no_handler_is_installed():
    found = []

    def body():
        with interruption.watch() as stop:
            found.append((stop.should_stop(1), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_a_forked_worker_can_be_ended_without_ending_the_run():
    code = """
import os, signal, sys, time
from ssljax.train.hosts import interruption
with interruption.watch() as stop:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    time.sleep(0.3)
    print(os.WTERMSIG(status) == signal.SIGTERM, stop.requested)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_the_exit_does_not_wait_for_shutdown_code_that_hangs():
    code = """
import atexit, time
from ssljax.train.hosts import exits
atexit.register(time.sleep, 60)
exits.exit_interrupted("Stopped.", timeout=1.0)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert (done.returncode, done.stderr.strip()) == (75, "Stopped.")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("when", ["during shutdown", "after Python's end"])
def test_a_signal_during_the_exit_changes_nothing(when):
    ending = "atexit.register(strike)" if when == "during shutdown" else "last = Last()"
    code = f"""
import atexit, os, signal
def strike():
    os.kill(os.getpid(), signal.SIGTERM)
class Last:
    def __del__(self):
        strike()
from ssljax.train.hosts import exits, interruption
{ending}
with interruption.watch():
    exits.exit_interrupted("Stopped.")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert (done.returncode, done.stderr.strip()) == (75, "Stopped.")
