"""A B A B: each side in a process of its own that stays warm, all on the same cores, a round at a time."""

import ctypes.util
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

EXTRA = "oracles"
NEED_TORCHVISION = ("lightly", "torchvision", "transformers")
SETTLE = 0.2  # seconds for the threads of the side before to fall asleep
KEPT = "dirty_decay_ms:-1,muzzy_decay_ms:-1"  # jemalloc's
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # where it is not installed
ALLOCATORS = ("LD_PRELOAD", "MALLOC_CONF", "GLIBC_TUNABLES")  # what chooses them
ORDERED = "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


# nothing of ssljax is imported here: jax would count as a peer's memory
class MissingPeerError(Exception):
    """A library to compare with is not installed."""


class Ready(NamedTuple):
    """A side that has been set up.

    Attributes:
        round: does a round's work to its end. What it returns is the round's value; None: the seconds that it took.
        work: what a round gets through, in the measure's unit.
        flops: of a round, counted analytically; 0: not counted.
        facts: what a reader has to know of this side.
    """

    round: Callable[[], float | None]
    work: float = 1.0
    flops: float = 0.0
    facts: dict[str, Any] = {}  # noqa: RUF012


class Side(NamedTuple):
    """One of those that are compared.

    Attributes:
        label: its name in the table.
        start: a module's function that sets it up in its process, given `options`.
        options: its keyword arguments, which can be pickled.
    """

    label: str
    start: Callable[..., Ready]
    options: dict[str, Any] = {}  # noqa: RUF012


class Measured(NamedTuple):
    """What rounds of a side gave.

    Attributes:
        label: the side's.
        values: of each round, seconds as a rule.
        work: of a round.
        flops: of a round, 0 if not counted.
        facts: of the side.
    """

    label: str
    values: list[float]
    work: float
    flops: float
    facts: dict[str, Any]

    @property
    def median(self) -> float:
        """Median of the rounds' values."""
        return statistics.median(self.values)


def need(library: str) -> Any:
    """Import a peer's library.

    Raises:
        MissingPeerError: naming the extra that brings it.
    """
    try:
        if (
            library in NEED_TORCHVISION
            and importlib.util.find_spec("torch")
            and importlib.util.find_spec("torchvision")
        ):
            from tests.oracles.torchvision_import import load_torchvision

            load_torchvision()
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingPeerError(f"{library} is not here to compare with ({error}); pip install '.[{EXTRA}]'") from error


def pin(cores: int) -> None:
    """Keep this process, and those that it starts, to its first `cores` cores and to one thread for each.

    Every side also gets jemalloc, where it is installed, with freed memory kept: glibc hands a step's work space back
    to the system, and clearing it anew took MoCo's step from .65 s to anything up to 1.0 s. Without it, glibc at least
    uses huge pages. XLA orders a CPU's operations for low peak memory (562 instead of 856 MiB of that step).
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ.update(dict.fromkeys(THREADS, str(cores)))
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # two processes share a GPU
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ORDERED}".strip()
    if allocator := ctypes.util.find_library("jemalloc"):
        os.environ.update({"LD_PRELOAD": allocator, "MALLOC_CONF": KEPT})
    else:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES


def compare(sides: Sequence[Side], rounds: int, warm: int = 1) -> tuple[list[Measured], list[str]]:
    """Run the sides alternately for `rounds` rounds.

    Args:
        sides: the first one is ours.
        rounds: of each side.
        warm: rounds before, which do not count.

    Returns:
        What was measured, in the order of the sides, and a sentence for each side whose library is missing, or which
        failed.

    Raises:
        RuntimeError: the first side failed; with its traceback.
    """
    with ExitStack() as stack:
        pipes = [(side, stack.enter_context(_process(side))) for side in sides]
        found, missing = [], []
        for side, pipe in pipes:
            reply = _answer_or_reason(side, pipe, sides)
            if "missing" in reply:
                missing.append(f"{side.label}: {reply['missing']}")
            else:
                found.append((side, pipe, Measured(side.label, [], reply["work"], reply["flops"], reply["facts"])))
        for number in range(warm + rounds):
            for each in tuple(found):
                side, pipe, measured = each
                pipe.send("round")
                reply = _answer_or_reason(side, pipe, sides)
                if "missing" in reply:
                    missing.append(f"{side.label}: {reply['missing']}")
                    found.remove(each)
                elif number >= warm:
                    measured.values.append(reply["value"])
                time.sleep(SETTLE)
    return [measured for *_, measured in found], missing


def _answer_or_reason(side: Side, pipe: Any, sides: Sequence[Side]) -> dict[str, Any]:
    """A peer that fails, which may be its own fault, is left out like one that is missing."""
    try:
        return _answer(side, pipe)
    except RuntimeError as error:
        if side is sides[0]:
            raise
        print(error, file=sys.stderr, flush=True)
        return {"missing": f"failed ({str(error).strip().splitlines()[-1][:200]})"}


def call(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returns in a process of its own; for what must not touch the driver's devices."""
    return compare([Side("call", _once, {"function": function, "args": args})], rounds=0, warm=0)[0][0].facts["result"]


def _once(function, args) -> Ready:
    return Ready(lambda: None, facts={"result": function(*args)})


@contextmanager
def _process(side: Side) -> Iterator[Any]:
    """The driver's end of a pipe to a new process of the side, which ends with the block, and its files with it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # no daemon: a side may have workers of its own
        process = context.Process(target=_serve, args=(theirs, side, folder))
        process.start()
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()


def _answer(side: Side, pipe: Any) -> dict[str, Any]:
    try:
        reply = pipe.recv()
    except EOFError:
        raise RuntimeError(f"{side.label}: its process has ended") from None
    if "failed" in reply:
        raise RuntimeError(f"{side.label} failed:\n{reply['failed']}")
    return reply


def _serve(pipe: Any, side: Side, folder: str) -> None:
    """A side's process: sets up, answers, then does a round on request, until the driver is gone."""
    tempfile.tempdir = folder
    try:
        ready = side.start(**side.options)
        pipe.send({"work": ready.work, "flops": ready.flops, "facts": ready.facts})
        while True:
            pipe.recv()
            began = time.perf_counter()
            value = ready.round()
            spent = time.perf_counter() - began
            pipe.send({"value": spent if value is None else value})
    except EOFError:
        return
    except MissingPeerError as error:
        pipe.send({"missing": str(error)})
    except BaseException:
        pipe.send({"failed": traceback.format_exc()})
