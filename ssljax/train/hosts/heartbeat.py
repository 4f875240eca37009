"""End a run that no longer moves, and say which of its processes is behind.

Every process writes `workdir/heartbeats/INDEX.json` every few seconds from a thread. One that has not moved for a while
reads those of the others; when none of them moves, it names the one behind, and all end with 76.
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

from ssljax.train.hosts import exits as leaving
from ssljax.train.hosts import interruption, lock, processes
from ssljax.train.hosts import status as signs
from ssljax.train.hosts.monitor import Board
from ssljax.train.hosts.status import BUSY, ENDED, FAILED, Sign

EXIT = 76
LIBRARIES = sys.stdlib_module_names - {"__main__"} | {
    "jax",
    "jaxlib",
    "numpy",
    "orbax",
    "grain",
    "etils",
    "tensorstore",
}
LOCAL_INTERVAL, REMOTE_INTERVAL = 2.0, 5.0  # seconds between beats


class Beat:
    """What `watch` hands out."""

    def __init__(self, workdir: Any, timeout: float, index: int, count: int):
        self.timeout, self.index, self.count = timeout, index, count
        self.board = Board(workdir, index, count)
        self.interval = min(timeout / 4, LOCAL_INTERVAL if lock.is_local(workdir) else REMOTE_INTERVAL)
        self._step, self._phase, self._moved = -1, "", time.monotonic()
        self._tick = self._moved  # when the thread last began a round
        self._done = threading.Event()
        self._mutex = threading.Lock()

    def step(self, number: int) -> None:
        """The run has got to this step. Cheap."""
        self._step, self._moved = number, time.monotonic()

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """For the length of the block no step is expected of this process."""
        before, self._phase, self._moved = self._phase, BUSY + what, time.monotonic()
        try:
            yield
        finally:
            self._phase, self._moved = before, time.monotonic()

    def explain(self, error: BaseException) -> str | None:
        """The sentence for an error that another process's end has caused; None if it comes from here.

        It waits a few beats for the other's to stop, or for the kernel to say that it is gone.
        """
        if self.count == 1 or not self.timeout or not signs.from_outside(error):
            return None
        until = time.monotonic() + 3 * self.interval + 1
        while time.monotonic() < until:
            if (verdict := self.board.verdict()) is not None:
                return verdict
            seen = self._look()
            others = [sign for sign in seen if sign.index != self.index and sign.phase != ENDED]
            lost = [s for s in others if s.condition == "gone" or signs.is_lost(s, 0.0, self.interval)]
            if lost:
                return signs.sentence(seen, lost, self.timeout)
            time.sleep(0.1)
        return None

    def end(self, message: str) -> NoReturn:
        """Say it, leave it to the others as the verdict, and exit with 76."""
        with self._mutex:  # one message, whichever thread is first
            stuck = threading.Timer(10.0, os._exit, (EXIT,))  # files or standard error that hang keep nobody
            stuck.daemon = True
            stuck.start()
            with contextlib.suppress(Exception):
                self.board.give_verdict(message)
                self._phase = ENDED
                self._beat()
            processes.say(f"error: {message}")
            if self.index == 0:
                self._wait_for_others()  # jax ends them roughly when process 0 goes
            os._exit(EXIT)

    def _run(self) -> None:
        while not self._done.wait(self.interval):
            now = time.monotonic()
            asleep, self._tick = now - self._tick > 3 * self.interval, now
            if asleep:  # stopped and continued, by ctrl-Z for instance: nothing could move
                self._guarded(self._take_verdict)
                self._moved = now
            self._guarded(self._beat)
            self._guarded(self._judge)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # whatever a file system raises; the watch goes on
            self.board.unreadable = time.monotonic()

    def _take_verdict(self) -> None:
        if (verdict := self.board.verdict()) is not None:
            self._end_unless_interrupted(verdict)

    def _judge(self) -> None:
        if time.monotonic() - self._moved < self.timeout / 4 and not self.board.one_is_missing():
            return
        self._take_verdict()
        seen = self._look()
        culprits = signs.behind(seen, self.timeout, self.interval)
        asleep = time.monotonic() - self._tick > max(3 * self.interval, self.timeout / 2)
        if culprits and not asleep:
            self._end_unless_interrupted(signs.sentence(seen, culprits, self.timeout), culprits)

    def _end_unless_interrupted(self, message: str, culprits: Sequence[Sign] = ()) -> None:
        # an interruption has a time limit of its own, and its exit code says that the run may go on
        if interruption.current().requested:
            return
        for sign in culprits:
            if sign.condition == "stopped" and sign.owner is not None:
                with contextlib.suppress(OSError):
                    os.kill(sign.owner.pid, signal.SIGKILL)
        self.end(message)

    def _look(self) -> list[Sign]:
        """Every process's sign now."""
        idle = time.monotonic() - self._moved
        mine = Sign(self.index, self.board.me, self._step, self._phase, idle, 0.0, _place())
        return sorted([mine, *self.board.others()], key=lambda sign: sign.index)

    def _beat(self) -> None:
        idle = time.monotonic() - self._moved
        self.board.post(self._step, self._phase, idle, _place() if idle > self.timeout / 4 else "")

    def _wait_for_others(self) -> None:
        until = time.monotonic() + 2 * self.interval + 1
        while time.monotonic() < until:
            others = self.board.others()
            if all(s.phase == ENDED or s.condition == "gone" or s.silent >= 3 * self.interval for s in others):
                return
            time.sleep(0.1)


def _place() -> str:
    """The line of ours, or of the user's, that the main thread is in."""
    frame = innermost = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in LIBRARIES:
        frame = frame.f_back
    frame = frame or innermost
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})" if frame is not None else ""


@contextlib.contextmanager
def watch(
    workdir: Any, stall_timeout: float | None, index: int | None = None, count: int | None = None
) -> Iterator[Beat]:
    """Watch over the processes of a run for the length of the block; all of them enter it at about the same time.

    An error that leaves the block because another process is gone ends this one with 76 as well.

    Args:
        workdir: the same for all of them.
        stall_timeout: seconds without a step after which all end; None or 0: never.
        index: `jax.process_index()`.
        count: `jax.process_count()`.
    """
    if index is None or count is None:
        import jax

        index, count = jax.process_index(), jax.process_count()
    beat = Beat(workdir, stall_timeout or 0.0, index, count)
    if not stall_timeout:
        yield beat
        return
    beat.board.begin()
    beat._beat()
    thread = threading.Thread(target=beat._run, name="heartbeat", daemon=True)
    thread.start()
    last = FAILED + "it left without an error of its own"
    try:
        with _time_before_abort(count):
            yield beat
        last = ENDED
    except Exception as error:
        if (message := beat.explain(error)) is not None:
            if interruption.current().requested:
                leaving.end_unsaved("Stopped: the other processes have left")
            beat.end(message)
        last = FAILED + f"{type(error).__name__}: {str(error)[:200]}"
        raise
    except BaseException:
        last = ENDED
        raise
    finally:
        beat._done.set()
        thread.join(timeout=beat.interval + 1)
        beat._phase = last
        with contextlib.suppress(OSError):
            beat._beat()


@contextlib.contextmanager
def _time_before_abort(count: int) -> Iterator[None]:
    """Let the thread that aborts sleep for six seconds first, in which another can name the process that is gone.

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
