"""Start toy runs, wait for what they say, strike, and collect how they end."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.xla_flags import QUICK

# one device, and no compiled program left half written by a process that is killed
ALONE = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}


class Run:
    """A process whose output is read as it comes."""

    def __init__(self, mode, workdir, **environment):
        command = [sys.executable, "-m", "tests.faults.toy_run", mode, str(workdir)]
        env = os.environ | ALONE | environment
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines, self.errors, self.ended = [], [], None
        readers = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self.readers = [threading.Thread(target=self._read, args=reader, daemon=True) for reader in readers]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, lines):
        with stream:
            for line in stream:
                lines.append(line if lines is self.errors else line.strip())

    @property
    def pid(self):
        return self.process.pid

    def wait_for(self, line, seconds=60):
        until = time.monotonic() + seconds
        while line not in self.lines:
            assert self.process.poll() is None, "".join(self.errors)[-3000:]
            assert time.monotonic() < until, (self.lines, "".join(self.errors)[-3000:])
            time.sleep(0.02)

    def end(self, seconds=60):
        """`(exit code, standard error)`."""
        code = self.process.wait(seconds)
        for reader in self.readers:
            reader.join(5)
        return code, "".join(self.errors)


@contextlib.contextmanager
def started(*runs):
    """The runs, killed at the end of the block whatever happens in it."""
    try:
        yield runs
    finally:
        for run in runs:
            run.process.kill()
            run.end()


def two(mode, workdir, own=({}, {}), **environment):
    """Two processes of one run; `own` is what their environments differ in."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"} | environment
    return started(*(Run(mode, workdir, JAX_PROCESS_ID=str(i), **shared, **own[i]) for i in range(2)))


def saved(workdir, index=0):
    return json.loads(Path(workdir, f"saved-{index}").read_text())
