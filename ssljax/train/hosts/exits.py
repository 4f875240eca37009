"""Exit codes of a run that did not finish, and how an interrupted one exits."""

import atexit
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from ssljax.train.hosts import processes

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_STALLED = 76  # a process is stuck or gone, or the lock of the workdir was lost
SIGNALS = (signal.SIGTERM, signal.SIGINT)

exiting = False  # from then on the signal handlers are those that `exit_interrupted` has installed
deadline: float | None = None  # of the last interruption, on the monotonic clock


def exit_interrupted(message: BaseException | str, timeout: float = 5.0) -> NoReturn:
    """Print the message on standard error and exit with 75.

    Args:
        message: one sentence.
        timeout: seconds after which the process exits whatever Python's shutdown waits for; the rest of the
            interruption's grace period, where there is one, counts instead.
    """
    global exiting
    exiting = True
    sys.stdout.flush()
    processes.write_stderr(str(message))
    if deadline is not None:
        timeout = max(deadline - time.monotonic(), 1.0)
    timer = threading.Timer(timeout, os._exit, (EXIT_INTERRUPTED,))
    timer.daemon = True
    timer.start()
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(EXIT_INTERRUPTED))
    sys.exit(EXIT_INTERRUPTED)


def exit_immediately(message: str) -> NoReturn:
    """Print the message on standard error and exit with 75, from any thread and without saving."""
    writer = threading.Thread(target=processes.write_stderr, args=(message,), daemon=True)
    writer.start()
    writer.join(timeout=1.0)  # a full pipe must not block the exit
    os._exit(EXIT_INTERRUPTED)


def _exit_before_teardown() -> None:
    # Python restores the default handlers before it ends: a signal would kill it while libraries are torn down
    if exiting:
        sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)


atexit.register(_exit_before_teardown)  # registered early, so that it runs after the other exit functions
