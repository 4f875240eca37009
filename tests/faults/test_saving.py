"""Saves that are killed, that run out of space, or that fail: committed steps are kept and failures reported."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ssljax.train import checkpoint
from ssljax.train.saving import manifest
from ssljax.types import BadInputError
from tests.faults import runs
from tests.faults.saving_loop import state_at
from tests.train import states

# orbax's threads end with the error that `check_for_errors` reports
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def saver():
    """Starts savers that can be killed: `saver(workdir) -> the number of a process that saves there`."""
    env = os.environ | runs.ALONE
    command = [sys.executable, "-m", "tests.faults.saving_loop"]
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(workdir):
        (workdir / "progress").unlink(missing_ok=True)
        print(workdir, file=server.stdin, flush=True)
        return int(progress(workdir)[0])

    yield start, server
    server.kill()
    server.communicate()


def progress(workdir):
    """The lines of a saver, at least one; waits for it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        path = workdir / "progress"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        if lines:
            return lines
        time.sleep(0.01)
    raise AssertionError("the saver has not started")


@pytest.mark.slow
def test_kills_at_random_instants_lose_nothing_that_was_committed(tmp_path, saver):
    start, server = saver
    rng = np.random.default_rng(0)
    newest = 0
    for _ in range(8):
        number = start(tmp_path)
        while len(progress(tmp_path)) < 2:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        os.kill(number, signal.SIGKILL)
        assert server.stdout.readline() == "killed\n"
        newest = int(progress(tmp_path)[-1])
        said = []
        checkpoints = checkpoint.open_checkpoints(str(tmp_path))
        found = checkpoint.restore(checkpoints, state_at(0), say=said.append)
        assert found is not None
        assert not said
        assert int(found.step) >= newest
        assert int(found.step) == checkpoint.all_steps(checkpoints)[-1]
        assert states.same(found, state_at(int(found.step)))
        assert all(path.name.isdecimal() for path in checkpoints.directory.iterdir())
        checkpoint.close(checkpoints)
    assert newest >= 8
    assert not (tmp_path / "checkpoints-damaged").exists()


@pytest.fixture
def two_saved(tmp_path):
    checkpoints = checkpoint.open_checkpoints(str(tmp_path), keep=3)
    for step in (1, 2):
        checkpoint.save(checkpoints, state_at(step))
    checkpoint.wait_until_finished(checkpoints)
    yield checkpoints
    checkpoint.close(checkpoints)


def settled(checkpoints):
    """The lines that `check_for_errors` reports once the save has ended."""
    while checkpoints.pending is not None and not checkpoints.pending[1].done():
        time.sleep(0.005)
    said = []
    checkpoint.check_for_errors(checkpoints, say=said.append)
    return said


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def file_limit(size):
    """Files of this process may not grow beyond it; None: as far as they like."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@pytest.fixture(params=["no room for the manifest", "files cannot grow", "no directory", "the copy fails"])
def fault(request, two_saved, monkeypatch):
    """Begins and ends one kind of trouble."""
    directory = two_saved.directory
    hidden = directory.parent / "hidden"

    def begin():
        if request.param == "no room for the manifest":
            monkeypatch.setattr(manifest, "write", no_space)
        elif request.param == "files cannot grow":
            file_limit(20_000)
        elif request.param == "no directory":
            directory.rename(hidden)
            directory.write_text("a file where the directory was")
        else:
            monkeypatch.setattr(checkpoint.snapshot, "copy_to_host", no_space)

    def end():
        monkeypatch.undo()
        file_limit(None)
        if hidden.exists():
            directory.unlink()
            hidden.rename(directory)

    yield begin, end
    end()


def test_a_save_that_fails_is_reported_and_the_next_one_saves(two_saved, fault):
    begin, end = fault
    begin()
    checkpoint.save(two_saved, state_at(3))
    said = settled(two_saved)
    assert len(said) == 1
    assert said[0].startswith("Checkpoint 3 could not be saved in ")
    assert settled(two_saved) == []
    end()
    assert sorted(path.name for path in two_saved.directory.iterdir()) == ["1", "2"]
    for step in (1, 2):
        assert manifest.read(two_saved.directory / str(step))["step"] == step
    assert states.same(checkpoint.restore(two_saved, state_at(0)), state_at(2))
    checkpoint.save(two_saved, state_at(3))
    checkpoint.wait_until_finished(two_saved)
    assert checkpoint.all_steps(two_saved) == [1, 2, 3]
    assert states.same(checkpoint.restore(two_saved, state_at(0)), state_at(3))


def test_three_failures_in_a_row_end_the_run(two_saved, monkeypatch):
    monkeypatch.setattr(manifest, "write", no_space)
    for step in (3, 4):
        checkpoint.save(two_saved, state_at(step))
        assert len(settled(two_saved)) == 1
    checkpoint.save(two_saved, state_at(5))
    with pytest.raises(checkpoint.SaveError, match=r"3 consecutive saves have failed.*Checkpoint 5.*No space left"):
        settled(two_saved)
    assert checkpoint.all_steps(two_saved) == [1, 2]


def test_failures_that_are_not_in_a_row_do_not_end_it(two_saved, monkeypatch):
    for step in range(3, 9):
        with monkeypatch.context() as patch:
            if step % 3:
                patch.setattr(manifest, "write", no_space)
            checkpoint.save(two_saved, state_at(step))
            assert len(settled(two_saved)) == (step % 3 > 0)
    assert checkpoint.all_steps(two_saved) == [2, 3, 6]


def test_a_failed_last_save_raises(two_saved, monkeypatch):
    monkeypatch.setattr(manifest, "write", no_space)
    checkpoint.save(two_saved, state_at(3))
    with pytest.raises(checkpoint.SaveError, match=r"Checkpoint 3 could not be saved in .*: No space left on device"):
        checkpoint.wait_until_finished(two_saved)


def test_a_directory_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(BadInputError, match=r"run/checkpoints cannot be written .* another --workdir"):
        checkpoint.open_checkpoints(str(tmp_path / "run"))


def test_a_disk_that_is_really_full(tmp_path):
    """On a file system of a megabyte where this user may mount one; elsewhere under a limit on the files' size."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        checkpoints = checkpoint.open_checkpoints(str(small))
        checkpoint.save(checkpoints, states.every_kind(1))
        checkpoint.wait_until_finished(checkpoints)
        if not mounted:
            file_limit(300_000)
        checkpoint.save(checkpoints, states.every_kind(2, width=400_000))
        said = settled(checkpoints)
        assert len(said) == 1
        assert "Checkpoint 2 could not be saved" in said[0]
        assert checkpoint.all_steps(checkpoints) == [1]
        checkpoint.save(checkpoints, states.every_kind(3))
        checkpoint.wait_until_finished(checkpoints)
        assert states.same(checkpoint.restore(checkpoints, states.every_kind()), states.every_kind(3))
        checkpoint.close(checkpoints)
    finally:
        file_limit(None)
        if mounted:
            subprocess.run(["umount", "-l", str(small)], check=True)
