"""A second run on one workdir is refused; one that died releases the lock."""

import json
import os
import signal
import time
from dataclasses import asdict, replace

import pytest

from ssljax.train.hosts import lock, processes
from ssljax.types import BadInputError
from tests.faults.runs import Run, started


@pytest.fixture(params=["files", "objects"])
def kind(request, monkeypatch):
    """A workdir in a file system, and one treated as if it were in a bucket."""
    if request.param == "objects":
        monkeypatch.setattr(lock, "is_local", lambda directory: False)
        monkeypatch.setattr(lock, "SETTLE", 0.05)
    return request.param


def write_lock(workdir, *, age, **changes):
    owner = replace(processes.this_process(), token="of another", since=time.time() - 1000, **changes)
    (workdir / "lock.json").write_text(json.dumps(asdict(owner) | {"time": time.time() - age}))


def test_the_second_is_refused_with_owner_and_age_and_the_place_is_free_afterwards(tmp_path, kind):
    with (
        lock.hold(tmp_path),
        pytest.raises(BadInputError, match=rf"in use by process {os.getpid()} on .* since 20\d\d-.* --workdir") as info,
        lock.hold(tmp_path),
    ):
        raise AssertionError
    assert "last heartbeat 0 s ago" in str(info.value)
    with lock.hold(tmp_path):
        pass


def test_after_kill_9_it_is_free_at_once(tmp_path, kind):
    with started(Run("lock", tmp_path)) as (run,):
        run.wait_for("holding")
        if kind == "files":
            with started(Run("lock", tmp_path)) as (second,):
                code, said = second.end()
            assert code == 2
            assert f"workdir={tmp_path} is in use by process {run.pid} on " in said
            assert "Traceback" not in said
        with pytest.raises(BadInputError, match=f"in use by process {run.pid} on "), lock.hold(tmp_path):
            raise AssertionError
        os.kill(run.pid, signal.SIGKILL)
        run.end()
        with lock.hold(tmp_path):
            pass


def test_the_age_is_that_of_the_last_heartbeat(tmp_path, kind, monkeypatch):
    with lock.hold(tmp_path):
        old = time.time() - 50
        if kind == "files":
            os.utime(tmp_path / "lock.json", (old, old))
        else:
            found = json.loads((tmp_path / "lock.json").read_text())
            (tmp_path / "lock.json").write_text(json.dumps(found | {"time": old}))
        with pytest.raises(BadInputError, match=r"last heartbeat 5[0-2] s ago"), lock.hold(tmp_path):
            raise AssertionError


def test_heartbeats_come_while_it_is_held(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(lock, "REFRESH", 0.1)

    def age():
        if kind == "files":
            return time.time() - os.stat(tmp_path / "lock.json").st_mtime
        return time.time() - json.loads((tmp_path / "lock.json").read_text())["time"]

    with lock.hold(tmp_path):
        time.sleep(0.6)
        assert age() < 0.5


def test_a_file_left_in_a_file_system_means_nothing(tmp_path):
    write_lock(tmp_path, age=1, host="elsewhere", machine="another")
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_a_forked_worker_that_outlives_the_run_does_not_keep_the_lock(tmp_path):
    child = None
    try:
        with lock.hold(tmp_path):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that jax has threads
                child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            time.sleep(0.3)
        with lock.hold(tmp_path):
            pass
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.mark.parametrize("kind", ["objects"], indirect=True)
def test_a_bucket_that_another_machine_holds_is_taken_over_when_its_lock_is_old(tmp_path, kind):
    write_lock(tmp_path, age=100, host="elsewhere", machine="another")
    with (
        pytest.raises(BadInputError, match=r"on elsewhere since .* 100 s ago.* released 120 s after"),
        lock.hold(tmp_path),
    ):
        raise AssertionError
    write_lock(tmp_path, age=121, host="elsewhere", machine="another")
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def test_a_run_whose_bucket_was_taken_over_ends(tmp_path):
    with started(Run("lock of a bucket", tmp_path)) as (run,):
        run.wait_for("holding")
        write_lock(tmp_path, age=0, host="elsewhere", pid=41)
        code, said = run.end()
        assert code == 76
        assert "was taken over by process 41 on elsewhere" in said
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == 41


@pytest.mark.parametrize("kind", ["objects"], indirect=True)
def test_of_two_that_claim_a_bucket_together_one_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(lock.time, "sleep", lambda _: write_lock(tmp_path, age=0, host="elsewhere", machine="another"))
    with pytest.raises(BadInputError, match="on elsewhere"), lock.hold(tmp_path):
        raise AssertionError


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": "x"}', '{"time": 1, "who": 2}', "\0" * 50])
def test_a_damaged_file_is_no_lock(tmp_path, kind, text):
    (tmp_path / "lock.json").write_text(text)
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_a_process_is_distinguished_from_another_with_its_pid():
    me = processes.this_process()
    assert processes.condition(me) == "running"
    assert processes.condition(replace(me, born="1")) == "gone"
    assert processes.condition(replace(me, machine="another")) == ""
