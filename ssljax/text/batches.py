"""Batches of sentence pairs as a pure function of (seed, step), through phases of different lengths."""

import contextlib
import functools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ssljax import sharding
from ssljax.data.loader import local_rows
from ssljax.data.order import batch_indices
from ssljax.data.workers import in_processes, take
from ssljax.text.corpus import Corpus
from ssljax.text.instances import assemble, plan
from ssljax.types import Array, BadInputError

AHEAD = 16  # batches: a pass over a large corpus takes seconds to plan


class Phase(NamedTuple):
    """A stretch of a run in which batches have one shape.

    Attributes:
        steps: number of steps; the first phase has steps 0 to `steps` - 1, and the last one continues without end.
        length: L, in tokens.
        batch_size: B, of the global batch.
    """

    steps: int
    length: int
    batch_size: int


def batches(
    corpus: Corpus,
    phases: Sequence[Phase],
    *,
    seed: int = 0,
    start_step: int = 0,
    num_steps: int,
    shift: int = 0,
    dupe_factor: int | None = None,
    workers: int = 0,
) -> Iterator[dict[str, Array]]:
    """The batches of steps `start_step` to `num_steps - 1`, split over the devices of the present mesh.

    Every pass over the corpus draws new instances and shuffles them; all passes have as many
    batches as the first. The next `AHEAD` batches are put together meanwhile.

    Args:
        corpus: prepared text.
        phases: in order; each begins with its own first pass.
        seed: seed of the instances and of the shuffle.
        start_step: the first step; `n` resumes exactly where a run of n steps stopped.
        num_steps: the step to stop before, counted from 0 whatever `start_step` is.
        shift: read the data of `step + shift` at each step; the phases do not move.
        dupe_factor: how many different passes there are before their instances come again (the official code's 10);
            None always draws new ones.
        workers: processes that put batches together; 0 uses a thread, which takes turns with the training loop.

    Returns:
        An iterator of tokens and segments int32[B, L]; lengths, is_random, example (the instance's number in its pass)
        and epoch (the pass) int32[B].

    Raises:
        BadInputError: too few instances for a batch, or arguments out of range.
    """
    for phase in phases:
        sharding.check_batch_size(phase.batch_size)
    if not phases or start_step < 0 or (dupe_factor is not None and dupe_factor < 1):
        raise BadInputError(
            f"{len(phases)} phases, start_step={start_step}, dupe_factor={dupe_factor}: "
            "give a phase, a step from 0 and a factor from 1."
        )
    first, last = phase_of(phases, start_step)[0], phase_of(phases, max(start_step, num_steps - 1))[0]
    for phase in phases[first : last + 1]:
        examples = num_examples(corpus, phase, seed)
        if examples < phase.batch_size:
            raise BadInputError(
                f"batch_size={phase.batch_size} is more than the {examples} instances of length {phase.length} "
                f"in {corpus.directory}; give a smaller one or more text."
            )
    rows = tuple(local_rows(phase.batch_size) for phase in phases)
    read = functools.partial(_read_step, corpus, tuple(phases), rows, seed, shift, dupe_factor)
    return _ahead(corpus, read, range(start_step, num_steps), workers)


def samples(
    corpus: Corpus, phases: Sequence[Phase], step: int, *, seed: int = 0, shift: int = 0, dupe_factor: int | None = None
) -> list[str]:
    """The samples that make up the batch of a step, as "pass:instance"; the options are those of `batches`."""
    number, within_phase = phase_of(phases, step)
    everything = np.arange(phases[number].batch_size)
    epoch, _, examples = _drawn(corpus, phases[number], seed, within_phase + shift, dupe_factor, everything)
    return [f"{epoch}:{example}" for example in examples]


def phase_of(phases: Sequence[Phase], step: int) -> tuple[int, int]:
    """Which phase a step is in, and its number within it.

    >>> [phase_of((Phase(2, 128, 8), Phase(1, 512, 4)), step) for step in range(4)]
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    for number, phase in enumerate(phases[:-1]):
        if step < phase.steps:
            return number, step
        step -= phase.steps
    return len(phases) - 1, step


@functools.lru_cache(maxsize=8)
def num_examples(corpus: Corpus, phase: Phase, seed: int) -> int:
    """How many instances the first pass has, which is what all passes are cut or repeated to."""
    return len(_plan(corpus, phase.length, seed, 0))


# num_examples of the first pass is asked for just before that pass is read
@functools.lru_cache(maxsize=1)
def _plan(corpus: Corpus, length: int, seed: int, epoch: int) -> np.ndarray:
    return plan(corpus, length=length, seed=seed, epoch=epoch)


def _read_step(corpus, phases, rows, seed, shift, dupe_factor, step) -> dict[str, np.ndarray] | str:
    """This process's rows of the batch of a step; an error travels as its sentence, since grain wraps a worker's."""
    number, within = phase_of(phases, step)
    try:
        return _read(corpus, phases[number], seed, within + shift, dupe_factor, rows[number])
    except BadInputError as error:
        return str(error)


def _read(corpus, phase, seed, step, dupe_factor, local) -> dict[str, np.ndarray]:
    epoch, instances, examples = _drawn(corpus, phase, seed, step, dupe_factor, local)
    return {
        **assemble(corpus, instances[examples], phase.length),
        "example": examples.astype(np.int32),
        "epoch": np.full(len(local), epoch, np.int32),
    }


def _drawn(corpus, phase, seed, step, dupe_factor, local) -> tuple[int, np.ndarray, np.ndarray]:
    """The pass that a step is in, its instances, and the numbers of those in rows `local` of the batch."""
    epoch, within = divmod(step, num_examples(corpus, phase, seed) // phase.batch_size)
    instances = _plan(corpus, phase.length, seed, epoch if dupe_factor is None else epoch % dupe_factor)
    # one batch of all instances is the epoch's whole order
    order = batch_indices(seed, epoch, size=len(instances), batch_size=len(instances))
    # passes differ a little in size: one that is smaller than the first begins again
    return epoch, instances, order[(within * phase.batch_size + local) % len(order)]


def _ahead(corpus, read, steps: range, workers: int) -> Iterator[dict[str, Array]]:
    """`read(step)` for each step, `AHEAD` of them in advance."""
    drawn = _in_processes(corpus, read, steps, workers) if workers else _in_thread(read, steps)
    with contextlib.closing(drawn):
        for batch in drawn:
            if isinstance(batch, str):
                raise BadInputError(batch)
            yield sharding.shard_batch(batch)


def _in_thread(read, steps: range) -> Generator[Any]:
    # one thread: a second one would plan the same pass once more
    thread = ThreadPoolExecutor(1, "text")
    waiting = deque(thread.submit(read, step) for step in steps[:AHEAD])
    try:
        for step in steps:
            batch = waiting.popleft().result()
            if step + AHEAD in steps:
                waiting.append(thread.submit(read, step + AHEAD))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)


def _in_processes(corpus, read, steps: range, workers: int) -> Generator[Any]:
    import grain

    share = -(-AHEAD // workers)
    drawn = grain.MapDataset.source(steps).map(read).to_iter_dataset(grain.ReadOptions(1, share))
    iterator = iter(in_processes(drawn, workers, share))
    try:
        for step in steps:
            yield from take(corpus, iterator, 1, step, workers)
    finally:
        iterator.close()
