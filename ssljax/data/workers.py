"""Processes that read for the loader: grain's, made to end with their parent, and with errors in one sentence."""

import itertools
import re
import signal
from collections.abc import Iterator
from typing import Any

from ssljax.data.records import name_of, summary
from ssljax.types import BadInputError


def in_processes(records: Any, workers: int, share: int) -> Any:
    """Let `workers` processes evaluate a grain dataset of records, each up to twice `share` of them in advance."""
    import grain

    _mark_flags_parsed()
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=share)
    return records.mp_prefetch(options, worker_init_fn=_end_with_parent)


def take(source: Any, records: Iterator[Any], count: int, step: int, workers: int) -> list[Any]:
    """The next `count` records, of batch `step`.

    Raises:
        BadInputError: a worker process died, or the source cannot be sent to one.
    """
    try:
        return list(itertools.islice(records, count))
    except Exception as error:
        if isinstance(error, BadInputError) or not workers:
            raise
        died = re.search(r"exit code (-?\d+)", str(error))
        if died is None:
            fault, fix = f"failed ({summary(error)})", "fix that or give workers=0, which reads in threads"
        else:
            fault = f"died of {_cause(int(died[1]))}"
            fix = "if memory ran out give fewer workers, then run the same command again"
        raise BadInputError(
            f"{name_of(source)}: one of the workers={workers} that read it {fault} for batch {step}; {fix}."
        ) from error


def _cause(code: int) -> str:
    """What an exit code says."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _end_with_parent(index: int, count: int) -> None:
    """Stop a worker whose parent was killed, since nothing else does."""
    import multiprocessing
    import os
    import threading

    parent = multiprocessing.parent_process()

    def watch():
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _mark_flags_parsed() -> None:
    """Grain's workers read absl flags, which absl refuses in programs that do not parse theirs with absl."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
