"""The ways out of a run that was interrupted: all of them exit with 75."""

import atexit
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from ssljax.train.hosts import processes

EXIT = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
SIGNALS = (signal.SIGTERM, signal.SIGINT)

begun = False  # from then on handlers stay as `leave` has set them
deadline: float | None = None  # of the last interruption, on the monotonic clock


def leave(stopped: BaseException | str, within: float = 5.0) -> NoReturn:
    """Say why on standard error and exit with 75, at the latest when the grace is over or, without one, `within` s."""
    global begun
    begun = True
    sys.stdout.flush()
    processes.say(str(stopped))
    if deadline is not None:
        within = max(deadline - time.monotonic(), 1.0)
    last = threading.Timer(within, os._exit, (EXIT,))
    last.daemon = True
    last.start()
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(EXIT))
    sys.exit(EXIT)


def end_unsaved(why: str) -> NoReturn:
    """Exit with 75 at once; what is committed stays."""
    line = f"{why}; what came after the last checkpoint is not saved. The same command takes the run up there."
    speaker = threading.Thread(target=processes.say, args=(line,), daemon=True)
    speaker.start()
    speaker.join(timeout=1.0)  # a full pipe must not keep the process
    os._exit(EXIT)


def _end() -> None:
    # Python gives the handlers back before it ends, and another signal would kill while libraries are torn down
    if begun:
        sys.stdout.flush()
        os._exit(EXIT)


atexit.register(_end)  # early, so that it comes after the others
