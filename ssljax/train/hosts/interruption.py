"""SIGTERM and SIGINT: stop at the next step boundary, save, exit with 75; a second signal exits at once.

A Python signal handler waits for the main thread to come back from XLA's compiler. So the signal's number also goes
to a pipe, which a thread reads: it sees the signal at once and ends the process when the grace is over.
"""

import contextlib
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ssljax.train.hosts import exits as leaving
from ssljax.train.hosts import processes
from ssljax.train.hosts.exits import SIGNALS, end_unsaved

SAME = 0.3  # seconds; `timeout` and some schedulers send one signal twice, to the process and to its group
POLL = 1.0  # seconds between looks for a notice that another process has got
NOTICE = "ssljax/interrupted"


class Interrupted(BaseException):
    """The run was asked to stop; like KeyboardInterrupt, no `except Exception` catches it."""


class Interruption:
    """What `watch` hands out: whether to stop, and when it may happen at once."""

    def __init__(self, grace: float):
        self.grace = grace
        self.first: float | None = None  # when the first signal came, on the monotonic clock
        self.name = ""
        self._own: float | None = None  # when the first one to this very process came
        self._may_leave = False
        self._passed_on = False
        self._joined = False  # whether jax has joined the run's processes; its client aborts if it is used before
        self._jax_action = b""
        self._jax_handler: Callable[[int], Any] | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come, to this process or, seen within a second or two, to another of the run."""
        return self.first is not None

    def due(self, step: int) -> bool:
        """Whether to stop now, after `step` steps; with several processes all of them say so at the same step.

        With several processes call it after every step, on all of them.
        """
        if processes.jax_client() is None:
            return self.requested
        import jax

        if not jax.config.jax_enable_preemption_service:  # type: ignore[attr-defined]
            return False
        from jax.experimental import multihost_utils

        # jax compares its argument for equality with the greatest so far, plus one, and begins at 0; a step of a run
        # that was taken up would miss a notice that came before the first call
        due = multihost_utils.reached_preemption_sync_point(next(_calls))
        if due and not self.requested:
            self._note("another process's notice")
        return due

    @contextlib.contextmanager
    def leaving_allowed(self) -> Iterator[None]:
        """Raise `Interrupted` in the main thread as soon as a signal comes, or came before.

        For what may be broken off anywhere: set-up, evaluation. A run of several processes is not broken off, since
        one would leave while the others wait for it: it has the grace to reach the end of the next step.
        """
        with self._leaving(True):
            self._leave_if_asked()
            yield

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Take the leave of `leaving_allowed` back for the length of the block; afterwards what came in it counts."""
        with self._leaving(False):
            yield
        self._leave_if_asked()

    @contextlib.contextmanager
    def _leaving(self, allowed: bool) -> Iterator[None]:
        before, self._may_leave = self._may_leave, allowed
        try:
            yield
        finally:
            self._may_leave = before

    def _leave_if_asked(self) -> None:
        if self._may_leave and self.requested and processes.jax_client() is None:
            raise Interrupted(self.name)

    def _handler(self, number: int, frame: Any) -> None:
        self._note(signal.Signals(number).name)
        self._leave_if_asked()

    def _note(self, name: str) -> None:
        if self.first is None:
            self.name = name
            self.first = time.monotonic()

    def _watch(self, inbox: int) -> None:
        """The thread: reads signals from the pipe, and ends the process on the second one or after the grace."""
        while True:
            left = self._left()
            if left <= 0:
                end_unsaved(f"Stopped by {self.name}: no step has ended within {self.grace:g} s")
            ready, _, _ = select.select([inbox], [], [], min(left, POLL))
            arrived = os.read(inbox, 4096) if ready else b""
            if ready and (not arrived or 0 in arrived):
                return
            for number in arrived:
                if number in SIGNALS:
                    self._arrived(signal.Signals(number).name)
            self._pass_on()

    def _arrived(self, name: str) -> None:
        if self._own is not None and time.monotonic() - self._own > SAME:
            end_unsaved(f"Stopped at once by a second signal, {name}")
        self._own = self._own or time.monotonic()
        self._note(name)

    def _left(self) -> float:
        if self.first is None:
            return self.grace + POLL
        # the others lose their footing when process 0 goes, so it goes last
        last = 2.5 * POLL if processes.jax_client() is not None and processes.is_process_0() else 0.0
        return self.first + self.grace + last - time.monotonic()

    def _pass_on(self) -> None:
        """Tell the other processes, or hear from them."""
        if self._passed_on or not self._joined:
            return
        if self.first is not None:
            self._passed_on = True
            if self._jax_handler is not None:
                self._jax_handler(signal.SIGTERM)
            processes.tell(NOTICE, self.name)
        elif heard := processes.hear(NOTICE):
            self._passed_on = True
            self._note(f"{heard} to another process")


_current: Interruption | None = None
_calls = itertools.count()


@contextlib.contextmanager
def watch(grace: float = 25.0) -> Iterator[Interruption]:
    """Take over SIGTERM and SIGINT for the length of the block; the handlers that were there come back after it.

    Inside another `watch` it yields that one. `jax.distributed.initialize` takes SIGTERM for itself: come through
    here again after it, inside or not, and both get it. Outside the main thread nothing is taken over.

    Args:
        grace: seconds from the first signal to the end of the process, whatever it does.
    """
    global _current
    in_main_thread = threading.current_thread() is threading.main_thread()
    if _current is not None or not in_main_thread:
        if _current is not None and in_main_thread:
            _take_over(_current)
        yield _current or Interruption(grace)
        return
    interruption = _current = Interruption(grace)
    inbox, outbox = os.pipe()
    os.set_blocking(outbox, False)
    python_handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # jax's handler, and any other that is not Python's, is known to the kernel only
    kernel_handlers = {number: processes.sigaction(number) for number in SIGNALS}
    earlier_outbox = signal.set_wakeup_fd(outbox, warn_on_full_buffer=False)
    _take_over(interruption)
    thread = threading.Thread(target=interruption._watch, args=(inbox,), name="interruption", daemon=True)
    thread.start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(earlier_outbox)
        for number in () if leaving.begun else SIGNALS:
            signal.signal(number, python_handlers[number] or signal.SIG_DFL)
            processes.sigaction(number, kernel_handlers[number])
        if interruption._jax_handler is not None and not leaving.begun:
            processes.sigaction(signal.SIGTERM, interruption._jax_action)
        _current = None
        leaving.deadline = time.monotonic() + interruption._left() if interruption.requested else None
        os.write(outbox, b"\0")
        thread.join()
        os.close(inbox)
        os.close(outbox)


def current() -> Interruption:
    """The `watch` that the program is in; outside of one, an interruption that never comes."""
    return _current or Interruption(0.0)


def _take_over(interruption: Interruption) -> None:
    found = processes.sigaction(signal.SIGTERM)
    for number in SIGNALS:
        signal.signal(number, interruption._handler)
    handler = processes.foreign_handler(found, python=processes.sigaction(signal.SIGTERM))
    interruption._joined = processes.jax_client() is not None
    if handler is not None and interruption._joined:
        interruption._jax_action, interruption._jax_handler = found, handler


def _forget_in_child() -> None:
    # a forked worker that is told to end must end, and must not write into its parent's pipe
    global _current
    if _current is not None:
        _current = None
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


os.register_at_fork(after_in_child=_forget_in_child)
