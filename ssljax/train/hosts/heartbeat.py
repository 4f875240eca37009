"""Exit from a run that makes no progress, and name the process that holds it up.

Every process writes `workdir/heartbeats/INDEX.json` every few seconds from a thread. One that has made no progress for
a while reads those of the others; when none of them makes any, it names the straggler, and all exit with 76.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ssljax.train.hosts import interruption, lock, processes
from ssljax.train.hosts import status as statuses
from ssljax.train.hosts.exits import EXIT_STALLED
from ssljax.train.hosts.monitor import Monitor
from ssljax.train.hosts.status import BUSY, ENDED, FAILED, Status

LIBRARIES = sys.stdlib_module_names - {"__main__"} | {
    "jax",
    "jaxlib",
    "numpy",
    "orbax",
    "grain",
    "etils",
    "tensorstore",
}
LOCAL_INTERVAL, REMOTE_INTERVAL = 2.0, 5.0  # seconds between heartbeats


class Heartbeat:
    """Yielded by `watch`: the run reports its steps and slow operations here."""

    def __init__(self, workdir: Any, timeout: float, index: int, count: int):
        self.timeout, self.index, self.count = timeout, index, count
        self.monitor = Monitor(workdir, index, count)
        self.interval = min(timeout / 4, LOCAL_INTERVAL if lock.is_local(workdir) else REMOTE_INTERVAL)
        self._interruption = interruption.current()
        self._step, self._phase, self._progress_time = -1, "", time.monotonic()
        self._loop_time = self._progress_time  # when the thread last began a round
        self._done = threading.Event()
        self._mutex = threading.Lock()

    def step(self, number: int) -> None:
        """Report that the run has reached this step; cheap."""
        self._step, self._progress_time = number, time.monotonic()
        self._interruption.phase = "training"

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Report that no step is expected of this process for the length of the block.

        Args:
            what: "starting", "compiling", "evaluating", "saving" or the like; messages of an interruption name it.
        """
        before, self._phase, self._progress_time = self._phase, BUSY + what, time.monotonic()
        phase_before, self._interruption.phase = self._interruption.phase, what
        try:
            yield
        finally:
            self._phase, self._progress_time = before, time.monotonic()
            self._interruption.phase = phase_before

    def explain(self, error: BaseException) -> str | None:
        """The message for an error that another process's end has caused; None if it is this process's own.

        It waits a few intervals for the other's heartbeats to stop, or for the kernel to report that it is gone.
        """
        if self.count == 1 or not self.timeout or not statuses.is_remote_error(error):
            return None
        until = time.monotonic() + 3 * self.interval + 1
        while time.monotonic() < until:
            if (verdict := self.monitor.verdict()) is not None:
                return verdict
            seen = self._read_all()
            others = [status for status in seen if status.index != self.index and status.phase != ENDED]
            lost = [s for s in others if s.condition == "gone" or statuses.is_lost(s, 0.0, self.interval)]
            if lost:
                return statuses.stall_message(seen, lost, self.timeout)
            time.sleep(0.1)
        return None

    def abort(self, message: str) -> NoReturn:
        """Print the message, publish it to the other processes as the verdict, and exit with 76."""
        with self._mutex:  # one message, whichever thread is first
            timer = threading.Timer(10.0, os._exit, (EXIT_STALLED,))  # files or standard error may hang
            timer.daemon = True
            timer.start()
            with contextlib.suppress(Exception):
                self.monitor.write_verdict(message)
                self._phase = ENDED
                self._write()
            processes.write_stderr(f"error: {message}")
            if self.index == 0:
                self._wait_for_others()  # jax aborts them when process 0 exits
            os._exit(EXIT_STALLED)

    def _run(self) -> None:
        while not self._done.wait(self.interval):
            now = time.monotonic()
            asleep, self._loop_time = now - self._loop_time > 3 * self.interval, now
            if asleep:  # stopped and continued, by ctrl-Z for instance: no progress was possible
                self._guarded(self._obey_verdict)
                self._progress_time = now
            self._guarded(self._write)
            self._guarded(self._check_progress)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # whatever a file system raises; the thread goes on
            self.monitor.last_error = time.monotonic()

    def _obey_verdict(self) -> None:
        if (verdict := self.monitor.verdict()) is not None:
            self._abort_unless_interrupted(verdict)

    def _check_progress(self) -> None:
        if time.monotonic() - self._progress_time < self.timeout / 4 and not self.monitor.any_missing():
            return
        self._obey_verdict()
        seen = self._read_all()
        culprits = statuses.stragglers(seen, self.timeout, self.interval)
        asleep = time.monotonic() - self._loop_time > max(3 * self.interval, self.timeout / 2)
        if culprits and not asleep:
            self._abort_unless_interrupted(statuses.stall_message(seen, culprits, self.timeout), culprits)

    def _abort_unless_interrupted(self, message: str, culprits: Sequence[Status] = ()) -> None:
        # an interruption has a time limit of its own, and its exit code says that the run can be resumed
        if interruption.current().requested:
            return
        for status in culprits:
            if status.condition == "stopped" and status.process is not None:
                with contextlib.suppress(OSError):
                    os.kill(status.process.pid, signal.SIGKILL)
        self.abort(message)

    def _read_all(self) -> list[Status]:
        """The present status of every process."""
        idle = time.monotonic() - self._progress_time
        mine = Status(self.index, self.monitor.process, self._step, self._phase, idle, 0.0, _location())
        return sorted([mine, *self.monitor.others()], key=lambda status: status.index)

    def _write(self) -> None:
        idle = time.monotonic() - self._progress_time
        self.monitor.write(self._step, self._phase, idle, _location() if idle > self.timeout / 4 else "")

    def _wait_for_others(self) -> None:
        until = time.monotonic() + 2 * self.interval + 1
        while time.monotonic() < until:
            others = self.monitor.others()
            if all(s.phase == ENDED or s.condition == "gone" or s.silent >= 3 * self.interval for s in others):
                return
            time.sleep(0.1)


def _location() -> str:
    """The line of ssljax's code, or of the user's, that the main thread is in."""
    frame = innermost = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in LIBRARIES:
        frame = frame.f_back
    frame = frame or innermost
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})" if frame is not None else ""


@contextlib.contextmanager
def watch(
    workdir: Any, stall_timeout: float | None, index: int | None = None, count: int | None = None
) -> Iterator[Heartbeat]:
    """Watch the processes of a run for the length of the block; all of them enter it at about the same time.

    When the block fails because another process is gone, this one exits with 76 as well.

    Args:
        workdir: the run's directory, the same for all processes.
        stall_timeout: seconds without a step after which all processes exit; None or 0: never.
        index: `jax.process_index()`.
        count: `jax.process_count()`.
    """
    if index is None or count is None:
        import jax

        index, count = jax.process_index(), jax.process_count()
    heartbeat = Heartbeat(workdir, stall_timeout or 0.0, index, count)
    if not stall_timeout:
        yield heartbeat
        return
    heartbeat.monitor.start()
    heartbeat._write()
    thread = threading.Thread(target=heartbeat._run, name="heartbeat", daemon=True)
    thread.start()
    last = FAILED + "it exited without an error of its own"
    try:
        with _delayed_abort(count):
            yield heartbeat
        last = ENDED
    except Exception as error:
        if (message := heartbeat.explain(error)) is not None:
            if (stop := interruption.current()).requested:
                stop.exit_unsaved("the other processes have exited")
            heartbeat.abort(message)
        last = FAILED + f"{type(error).__name__}: {str(error)[:200]}"
        raise
    except BaseException:
        last = ENDED
        raise
    finally:
        heartbeat._done.set()
        thread.join(timeout=heartbeat.interval + 1)
        heartbeat._phase = last
        with contextlib.suppress(OSError):
            heartbeat._write()


@contextlib.contextmanager
def _delayed_abort(count: int) -> Iterator[None]:
    """Let a thread that aborts sleep for six seconds first, in which another can name the process that is gone.

    When process 0 dies, jax aborts the others within milliseconds, with a stack trace. The handler is libc's `sleep`
    itself, safe in any state of the process, and called with the signal's number.
    """
    if count == 1:
        yield
        return
    sleep = ctypes.cast(ctypes.CDLL(None).sleep, ctypes.c_void_p).value or 0
    before = processes.sigaction(signal.SIGABRT)
    processes.sigaction(signal.SIGABRT, sleep.to_bytes(8, sys.byteorder) + bytes(248))
    try:
        yield
    finally:
        processes.sigaction(signal.SIGABRT, before)
