"""SIGTERM and SIGINT: stop at the next step boundary, save, exit with 75; a second signal exits immediately.

A Python signal handler waits for the main thread to come back from XLA's compiler. So the signal's number also goes
to a pipe, which a thread reads: it sees the signal at once and ends the process when the grace period is over.
"""

import contextlib
import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ssljax.train.hosts import exits, processes
from ssljax.train.hosts.exits import SIGNALS

REPEAT_WINDOW = 0.3  # seconds; `timeout` and some schedulers send one signal twice, to the process and to its group
POLL_INTERVAL = 1.0  # seconds between looks for a notice from another process
NOTICE_KEY = "ssljax/interrupted"
PHASES = {"compiling": "during compilation", "training": "during training", "evaluating": "during evaluation"}


class Interrupted(BaseException):
    """The run was asked to stop; like KeyboardInterrupt, no `except Exception` catches it."""


class Interruption:
    """Yielded by `watch`: whether a signal has come, and where it may interrupt the run.

    Attributes:
        grace: seconds from the first signal to the end of the process.
        signal_name: of the first signal, such as "SIGTERM".
        phase: what the run is busy with: "starting", "compiling", "training", "evaluating", "saving" and so on.
    """

    def __init__(self, grace: float):
        self.grace = grace
        self.signal_name = "request"
        self.phase = "starting"
        self._resume_hint = "run the same command again"  # until it is known what is saved
        self._first: float | None = None  # when the first signal came, on the monotonic clock
        self._first_here: float | None = None  # when the first one to this very process came
        self._interruptible = False
        self._notified = False  # whether this process has notified the others, or was notified
        self._distributed = False  # whether jax.distributed is initialized; its client aborts if it is used before
        self._jax_action = b""
        self._jax_handler: Callable[[int], Any] | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come, to this process or, seen within a second or two, to another of the run."""
        return self._first is not None

    def should_stop(self, step: int) -> bool:
        """Whether to stop now, after `step` steps; all processes of a run get the same answer at the same step.

        With several processes call it after every step, on all of them.
        """
        if processes.jax_client() is None:
            return self.requested
        import jax

        if not jax.config.jax_enable_preemption_service:  # type: ignore[attr-defined]
            return False
        from jax.experimental import multihost_utils

        # jax compares its argument for equality with the greatest so far, plus one, and begins at 0; with the step of
        # a resumed run it would miss a notice that came before the first call
        stop = multihost_utils.reached_preemption_sync_point(next(_calls))
        if stop and not self.requested:  # the notice was published before jax was told
            self._record(f"{processes.lookup(NOTICE_KEY) or 'a signal'} to another process")
        return stop

    def record_saved(self, step: int | None) -> None:
        """Note the newest checkpoint, for the messages; None: there is none."""
        self._resume_hint = "nothing is saved yet, the same command starts again"
        if step is not None:
            self._resume_hint = f"run the same command to resume from step {step}"

    def message(self, reason: str = "") -> str:
        """What is printed at the exit: the signal, the phase, and where the same command resumes."""
        phase = PHASES.get(self.phase, f"while {self.phase}")
        return f"Stopped by {self.signal_name} {phase}{reason and f': {reason}'}; {self._resume_hint}."

    def saved_message(self, step: int) -> str:
        """What is printed at the exit after a checkpoint of `step` was saved for it."""
        return f"Stopped by {self.signal_name} at step {step}; the checkpoint is saved, run the same command to resume."

    def exit_unsaved(self, reason: str) -> NoReturn:
        """Exit with 75 immediately, from any thread; what is committed remains."""
        exits.exit_immediately(self.message(reason))

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise `Interrupted` in the main thread as soon as a signal comes, or on entry if one has come.

        For what may be aborted anywhere: set-up, evaluation. A run of several processes is not aborted, since one
        would exit while the others wait for it: it has the grace period to reach the end of the next step.
        """
        with self._set_interruptible(True):
            self._raise_if_requested()
            yield

    @contextlib.contextmanager
    def uninterruptible(self) -> Iterator[None]:
        """Suspend `interruptible` for the length of the block, such as a save; a signal in it is raised behind it."""
        with self._set_interruptible(False):
            yield
        self._raise_if_requested()

    @contextlib.contextmanager
    def _set_interruptible(self, value: bool) -> Iterator[None]:
        before, self._interruptible = self._interruptible, value
        try:
            yield
        finally:
            self._interruptible = before

    def _raise_if_requested(self) -> None:
        if self._interruptible and self.requested and processes.jax_client() is None:
            raise Interrupted(self.message())

    def _handler(self, number: int, frame: Any) -> None:
        self._record(signal.Signals(number).name)
        self._raise_if_requested()

    def _record(self, name: str) -> None:
        if self._first is None:
            self.signal_name = name
            self._first = time.monotonic()

    def _read_signals(self, inbox: int) -> None:
        """The thread: reads signals from the pipe; exits on the second one or after the grace period."""
        while True:
            remaining = self._remaining()
            if remaining <= 0:
                self.exit_unsaved(f"no step has finished within {self.grace:g} s")
            ready, _, _ = select.select([inbox], [], [], min(remaining, POLL_INTERVAL))
            received = os.read(inbox, 4096) if ready else b""
            if ready and (not received or 0 in received):
                return
            for number in received:
                if number in SIGNALS:
                    self._receive(signal.Signals(number).name)
            self._exchange_notices()

    def _receive(self, name: str) -> None:
        if self._first_here is not None and time.monotonic() - self._first_here > REPEAT_WINDOW:
            self.exit_unsaved(f"a second signal ({name}) came")
        self._first_here = self._first_here or time.monotonic()
        self._record(name)

    def _remaining(self) -> float:
        if self._first is None:
            return self.grace + POLL_INTERVAL
        # the other processes fail when process 0 exits, so it exits last
        extra = 2.5 * POLL_INTERVAL if processes.jax_client() is not None and processes.is_process_0() else 0.0
        return self._first + self.grace + extra - time.monotonic()

    def _exchange_notices(self) -> None:
        """Notify the other processes of a signal, or look for their notice."""
        if self._notified or not self._distributed:
            return
        if self._first is not None:
            self._notified = True
            processes.publish(NOTICE_KEY, self.signal_name)
            if self._jax_handler is not None:
                self._jax_handler(signal.SIGTERM)
        elif name := processes.lookup(NOTICE_KEY):
            self._notified = True
            self._record(f"{name} to another process")


_current: Interruption | None = None
_calls = itertools.count()


@contextlib.contextmanager
def watch(grace: float = 25.0) -> Iterator[Interruption]:
    """Handle SIGTERM and SIGINT for the length of the block; the previous handlers are restored after it.

    Inside another `watch` it yields that one. `jax.distributed.initialize` installs its own handler of SIGTERM: enter
    `watch` again after it, inside or not, and both are called. Outside the main thread no handler is installed.

    Args:
        grace: seconds from the first signal to the end of the process, whatever it does.
    """
    global _current
    in_main_thread = threading.current_thread() is threading.main_thread()
    if _current is not None or not in_main_thread:
        if _current is not None and in_main_thread:
            _install_handlers(_current)
        yield _current or Interruption(grace)
        return
    interruption = _current = Interruption(grace)
    inbox, outbox = os.pipe()
    os.set_blocking(outbox, False)
    python_handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # jax's handler, and any other that is not Python's, is known to the kernel only
    kernel_handlers = {number: processes.sigaction(number) for number in SIGNALS}
    earlier_outbox = signal.set_wakeup_fd(outbox, warn_on_full_buffer=False)
    _install_handlers(interruption)
    thread = threading.Thread(target=interruption._read_signals, args=(inbox,), name="interruption", daemon=True)
    thread.start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(earlier_outbox)
        for number in () if exits.exiting else SIGNALS:
            signal.signal(number, python_handlers[number] or signal.SIG_DFL)
            processes.sigaction(number, kernel_handlers[number])
        if interruption._jax_handler is not None and not exits.exiting:
            processes.sigaction(signal.SIGTERM, interruption._jax_action)
        _current = None
        exits.deadline = time.monotonic() + interruption._remaining() if interruption.requested else None
        os.write(outbox, b"\0")
        thread.join()
        os.close(inbox)
        os.close(outbox)


def current() -> Interruption:
    """The `watch` that the program is in; outside of one, an interruption that never comes."""
    return _current or Interruption(0.0)


def _install_handlers(interruption: Interruption) -> None:
    found = processes.sigaction(signal.SIGTERM)
    for number in SIGNALS:
        signal.signal(number, interruption._handler)
    handler = processes.foreign_handler(found, python=processes.sigaction(signal.SIGTERM))
    interruption._distributed = processes.jax_client() is not None
    if handler is not None and interruption._distributed:
        interruption._jax_action, interruption._jax_handler = found, handler


def _reset_in_child() -> None:
    # a forked worker must end when it is terminated, and must not write into its parent's pipe
    global _current
    if _current is not None:
        _current = None
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


os.register_at_fork(after_in_child=_reset_in_child)
