"""A process that is stopped, killed or stuck ends the whole run with 76 within the timeout, and is named."""

import json
import os
import re
import signal
import time
from dataclasses import replace

import pytest

from ssljax.train.hosts import exits, heartbeat, processes
from ssljax.train.hosts.status import Status, is_remote_error, stall_message, stragglers
from tests.faults.runs import Run, started, two

TIMEOUT, INTERVAL = 10.0, 1.0
PROCESS = replace(processes.this_process(), host="nodeb", pid=41)
STUCK = Status(0, PROCESS, 7, idle=11.0)


def one_message(said, index):
    """The message of a process, which is printed once."""
    (message,) = re.findall(r"^error: (.*)$", said, re.MULTILINE)
    assert re.search(rf"process {index}: \d+", message)
    assert message.endswith("Run the same command to resume from the last checkpoint.")
    return message


@pytest.mark.slow
def test_a_process_stopped_with_sigstop_is_named_and_all_end(tmp_path):
    with two("train", tmp_path, TOY_STALL="4") as runs:
        for run in runs:
            run.wait_for("training")
        time.sleep(1)
        os.kill(runs[1].pid, signal.SIGSTOP)
        began = time.monotonic()
        code, said = runs[0].end()
        assert code == exits.EXIT_STALLED == 76, said[-3000:]
        assert 3 < time.monotonic() - began < 12
        message = one_message(said, 1)
        assert message.startswith(f"No progress for 4 s: process 1 (pid {runs[1].pid} on ")
        assert "is behind: it is stopped (SIGSTOP); last step " in message
        assert runs[1].end(10)[0] == -signal.SIGKILL


@pytest.mark.slow
def test_a_process_stopped_on_another_machine_ends_when_it_is_continued(tmp_path):
    machines = ({"TOY_MACHINE": "one"}, {"TOY_MACHINE": "two"})
    with two("train", tmp_path, machines, TOY_STALL="3") as runs:
        for run in runs:
            run.wait_for("training")
        time.sleep(1)
        os.kill(runs[1].pid, signal.SIGSTOP)
        code, said = runs[0].end()
        assert code == 76, said[-3000:]
        assert "is behind: last step " in one_message(said, 1)
        assert runs[1].process.poll() is None
        os.kill(runs[1].pid, signal.SIGCONT)
        code, said_late = runs[1].end(20)
        assert code == 76, said_late[-3000:]
        assert one_message(said_late, 1) == one_message(said, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "victim"), [("train", 1), ("stuck source", 0)])
def test_a_process_killed_is_named_by_the_other(tmp_path, mode, victim):
    """The other gets an error from its step, or is elsewhere when jax aborts it because process 0 is gone."""
    with two(mode, tmp_path, TOY_STALL="60") as runs:
        for run in runs:
            run.wait_for("training")
        time.sleep(2)
        os.kill(runs[victim].pid, signal.SIGKILL)
        began = time.monotonic()
        code, said = runs[1 - victim].end()
        assert code == 76, said[-3000:]
        assert time.monotonic() - began < 10
        assert one_message(said, victim).startswith(f"process {victim} (pid {runs[victim].pid} on ")
        assert "is gone (killed?); last step " in said


@pytest.mark.slow
def test_a_process_alive_but_stuck_in_python_is_named_and_ends_too(tmp_path):
    with two("stuck source", tmp_path, TOY_STALL="4") as runs:
        for index, run in enumerate(runs):
            code, said = run.end(60)
            assert code == 76, said[-3000:]
            message = one_message(said, index)
            assert f"process 1 (pid {runs[1].pid} on " in message
            assert "process 0: 20, process 1: 20" in message
            assert "(wait_for_the_disk)" in message


@pytest.mark.slow
def test_a_source_that_hangs_ends_a_run_of_one_process_with_the_step(tmp_path):
    with started(Run("stuck source", tmp_path, TOY_STALL="2")) as (run,):
        code, said = run.end()
        assert code == 76
        message = one_message(said, 0) if "process 0:" in said else re.findall(r"^error: (.*)$", said, re.MULTILINE)[0]
        assert "No progress for 2 s: process 0 (pid " in message
        assert "is stuck: last step 20" in message
        assert "(wait_for_the_disk)" in message


def test_a_run_that_was_stopped_and_continued_by_hand_goes_on(tmp_path):
    with started(Run("train", tmp_path, TOY_STALL="1")) as (run,):
        run.wait_for("training")
        time.sleep(0.5)
        os.kill(run.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(run.pid, signal.SIGCONT)
        time.sleep(1.5)
        assert run.process.poll() is None, run.errors


def test_an_error_of_its_own_is_not_changed(tmp_path):
    with started(Run("own error", tmp_path, TOY_STALL="5")) as (run,):
        code, said = run.end()
        assert code == 1
        assert "ValueError: an error of its own" in said
        assert "error: " not in said.replace("Error: ", "")


def test_compiling_does_not_count(tmp_path):
    file = tmp_path / "heartbeats" / "0.json"
    with heartbeat.watch(tmp_path, 1.5, index=0, count=1) as reported:
        with reported.busy("compiling"):
            time.sleep(2.5)
            found = json.loads(file.read_text())
            assert found["phase"] == "busy: compiling"
            assert found["idle"] > 1.5
        reported.step(7)
    found = json.loads(file.read_text())
    assert (found["phase"], found["step"]) == ("ended", 7)


def test_off_it_writes_nothing(tmp_path):
    for timeout in (None, 0):
        with heartbeat.watch(tmp_path, timeout) as reported, reported.busy("saving"):
            reported.step(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("behind_by", [0, 1])
def test_files_of_an_earlier_run_are_ignored(tmp_path, behind_by):
    with heartbeat.watch(tmp_path, 60.0, index=1, count=2) as reported:
        reported.step(900)
    folder = tmp_path / "heartbeats"
    (folder / "verdict.json").write_text(json.dumps({"by": {"token": "earlier"}, "message": "an earlier run"}))
    with heartbeat.watch(tmp_path, 60.0, index=0, count=2) as reported:
        reported.step(5)
        assert reported.monitor.others()[0].process is None
        assert reported.monitor.verdict() is None
        with heartbeat.watch(tmp_path, 60.0, index=1, count=2) as other:
            other.step(5 - behind_by)
            other._write()
            seen = reported.monitor.others()[0]
            assert (seen.step, seen.process) == (5 - behind_by, other.monitor.process)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], [0]),
        ([Status(1, PROCESS, 8, idle=11.0)], [0]),
        ([Status(1, PROCESS, 6, idle=11.0)], [1]),
        ([Status(1, PROCESS, 7, idle=11.0)], [0, 1]),
        ([Status(1, PROCESS, 8, idle=2.0)], []),
        ([Status(1, PROCESS, 8, idle=11.0), Status(2, PROCESS, 9, idle=11.0)], [0]),
        # one that is busy is waited for, unless it waits itself
        ([Status(1, PROCESS, 7, "busy: compiling", idle=90.0)], []),
        ([Status(1, PROCESS, 8, "busy: saving", idle=90.0)], [0]),
        # whoever is silent holds up the others, whichever step it had got to
        ([Status(1, PROCESS, 9, idle=12.0, silent=11.0)], [1]),
        ([Status(1, PROCESS, 9, "busy: compiling", idle=12.0, silent=11.0)], [1]),
        ([Status(1, None, idle=12.0, silent=12.0)], [1]),
        ([Status(1, PROCESS, 9, idle=0.0, silent=2.0)], []),
        ([Status(1, PROCESS, 9, "failed: ValueError", idle=12.0, silent=11.0)], [1]),
        # one that has finished does not
        ([Status(1, PROCESS, 3, "ended", idle=90.0, silent=90.0)], [0]),
    ],
)
def test_who_is_behind(others, expected):
    assert [status.index for status in stragglers([STUCK, *others], TIMEOUT, INTERVAL)] == expected


def test_a_process_that_is_gone_is_not_waited_for():
    gone = Status(1, PROCESS, 9, condition="gone", idle=2.0, silent=2.0)
    assert stragglers([replace(STUCK, idle=1.5), gone], TIMEOUT, INTERVAL) == [gone]
    assert stragglers([replace(STUCK, phase="busy: evaluating", idle=0.1), gone], TIMEOUT, INTERVAL) == [gone]
    assert stragglers([replace(STUCK, idle=0.5), gone], TIMEOUT, INTERVAL) == []
    assert stragglers([STUCK, replace(gone, phase="ended")], TIMEOUT, INTERVAL) == [STUCK]


def test_the_message_names_host_process_and_steps():
    silent = Status(1, PROCESS, 6, idle=130.0, silent=124.6)
    assert stall_message([STUCK, silent], [silent], 120.0) == (
        "No progress for 120 s: process 1 (pid 41 on nodeb) is behind: last step 6, last heartbeat 125 s ago. "
        "Last steps: process 0: 7, process 1: 6; all processes exit. "
        "Run the same command to resume from the last checkpoint."
    )
    assert "process 2 has sent no heartbeat" in stall_message([STUCK, Status(2)], [Status(2)], 1.0)
    failed = Status(1, PROCESS, 6, phase="failed: ValueError: no such file")
    assert "nodeb) failed: ValueError: no such file; last step 6" in stall_message([STUCK, failed], [failed], 1.0)


def test_only_errors_of_communication_count_as_remote():
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    assert is_remote_error(gloo)
    assert not is_remote_error(ValueError("shapes differ"))
