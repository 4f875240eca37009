"""Forked children: a process a trial without Python's start, whose end, however it comes, is only counted."""

import atexit
import contextlib
import dataclasses
import json
import mmap
import os
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssljax.train.hosts import heartbeat

PHASES = ("set-up", "compiling", "training", "saving", "evaluating")
PAUSE = 0.002  # seconds between looks


class Page:
    """Memory that a run in a child shares with its parent: the last step it has reached and what it is busy with."""

    def __init__(self):
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.write(-1, 0)

    def write(self, step: int, phase: int) -> None:
        """Take note."""
        struct.pack_into("<qq", self.memory, 0, step, phase)

    @property
    def step(self) -> int:
        """-1 before the first."""
        return struct.unpack_from("<q", self.memory, 0)[0]

    @property
    def phase(self) -> str:
        """One of `PHASES`."""
        return PHASES[struct.unpack_from("<q", self.memory, 8)[0]]

    def follow(self) -> None:
        """Note from now on what the runs of this process report to their heartbeat."""
        counted, busied = heartbeat.Heartbeat.step, heartbeat.Heartbeat.busy

        def step(beat: heartbeat.Heartbeat, number: int) -> None:
            counted(beat, number)
            self.write(number, PHASES.index("training"))

        @contextlib.contextmanager
        def busy(beat: heartbeat.Heartbeat, what: str) -> Iterator[None]:
            before = struct.unpack_from("<q", self.memory, 8)[0]
            self.write(self.step, PHASES.index(what) if what in PHASES else before)
            with busied(beat, what):
                yield
            self.write(self.step, before)

        heartbeat.Heartbeat.step, heartbeat.Heartbeat.busy = step, busy  # type: ignore[assignment]


@dataclasses.dataclass
class Child:
    """A forked process.

    Attributes:
        pid: its number.
        log: the file with all that it prints.
        code: what it has ended with, a signal as its negative number; None as long as it runs.
    """

    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """`code`, now."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
        """`code`, as soon as it has ended or `until()` is true, or after `seconds`."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end and not until():
            time.sleep(PAUSE)
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Make sure that it has ended."""
        self.send(signal.SIGKILL)
        self.wait(30)

    def said(self) -> str:
        """The end of what it has printed."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def fork(act: Callable[[], Any], log: Path, environment: Mapping[str, str] | None = None) -> Child:
    """Start `act` in a child, which ends as a program of its own would: 0, what `sys.exit` was given, or 1.

    The caller must not have used jax's devices before. Threads of OpenBLAS are safe: it handles forks itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        os.environ.update(environment or {})
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        code = _run(act)
    finally:
        os._exit(code)


def _run(act: Callable[[], Any]) -> int:
    code = 0
    try:
        act()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    # the interpreter's end: threads are waited for, what was registered runs
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


@contextlib.contextmanager
def running(child: Child) -> Iterator[Child]:
    """The child, for no longer than the block."""
    try:
        yield child
    finally:
        child.kill()


def call(
    act: Callable[[], Any], folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 3600
) -> Any:
    """What `act` returns in a child, through JSON.

    Raises:
        RuntimeError: it did not end well; with what it has printed.
    """
    place = Path(tempfile.mkdtemp(prefix="call-", dir=folder))

    def save_answer() -> None:
        (place / "answer").write_text(json.dumps(act()))

    with running(fork(save_answer, place / "log", environment)) as child:
        if child.wait(seconds) != 0:
            raise RuntimeError(f"a child has ended with {child.code}:\n{child.said()}")
    return json.loads((place / "answer").read_text())
