"""Runs that are killed and interrupted, through the command line and in forked children, end as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import fault_runs, tiny
from ssljax.train.hosts import exits
from tests.xla_flags import QUICK

# the flags make the compilation quick, and the cache that of the second start
FLAGS = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}


class Command:
    """The real command line of a tiny run, as a process with its output in a file."""

    def __init__(self, folder, workdir):
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        # only the uninterrupted run writes there: a kill may leave a partial entry
        cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0" if workdir.name == "whole" else "1e9"
        options = [*model(folder).options, *tiny.COMMON, "--workdir", str(workdir)]
        command = [sys.executable, "-m", "experiments.moco_cifar10", *options]
        self.log = folder / f"{workdir.name}.txt"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=os.environ | FLAGS | cache, stdout=log, stderr=log)

    def strike(self, number, workdir, after):
        """Send a signal a little after a checkpoint behind step `after` is committed: (exit code, seconds)."""
        until = time.monotonic() + 120
        while tiny.newest(workdir) <= after:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(0.05)
        sent = time.monotonic()
        self.process.send_signal(number)
        return self.end(), time.monotonic() - sent

    def end(self):
        return self.process.wait(240)


@pytest.fixture
def folder(tmp_path):
    """The data and, by the command line, the uninterrupted run, whose programs fill the cache."""
    (tmp_path / "cache").mkdir()
    tiny.make_pictures(tmp_path / "pictures.npz")
    whole = Command(tmp_path, tmp_path / "whole")
    assert whole.end() == 0, whole.log.read_text()[-3000:]
    return tmp_path


def model(folder):
    """The run that is killed, interrupted or uninterrupted."""
    return tiny.moco(f"arrays:{folder}/pictures.npz")


@pytest.mark.slow
def test_a_run_that_is_killed_and_interrupted_ends_as_one_that_is_not(folder):
    workdir = folder / "run"
    code, _ = Command(folder, workdir).strike(signal.SIGKILL, workdir, after=0)
    assert code == -signal.SIGKILL
    killed_at = tiny.newest(workdir)
    command = Command(folder, workdir)
    code, seconds = command.strike(signal.SIGTERM, workdir, after=killed_at)
    assert code == exits.EXIT_INTERRUPTED == fault_runs.INTERRUPTED
    assert seconds < fault_runs.LIMIT
    said = (
        f"Stopped by SIGTERM at step {tiny.newest(workdir)}; the checkpoint is saved, run the same command to resume."
    )
    assert said in command.log.read_text()
    assert killed_at < tiny.newest(workdir) < tiny.STEPS
    # the rest in a process where jax has not begun anything yet
    rest = [sys.executable, "-m", "tests.faults.test_runs", str(folder)]
    done = subprocess.run(rest, env=os.environ | FLAGS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    # it may come to its end before all three
    assert found["codes"]
    assert set(found["codes"]) <= {-signal.SIGKILL, fault_runs.INTERRUPTED, 0}


def strike_again(folder):
    """Two kills and a signal at random instants of what the command line has left, until the run is complete."""
    tiny.load_libraries()
    whole = fault_runs.Uninterrupted(model(folder), tiny.ending(folder / "whole"), 10.0)
    kinds = [fault_runs.kill_once, fault_runs.signal_once]

    def inject(*given):
        kinds.append(kinds.pop(0))
        return kinds[-1](*given)

    rng = np.random.default_rng(1)
    faults, wrong = fault_runs.one_run(whole, folder / "run", folder / "cache", 3, rng, inject)
    print(json.dumps({"codes": [fault.code for fault in faults], "wrong": wrong}))


if __name__ == "__main__":
    strike_again(Path(sys.argv[1]))
