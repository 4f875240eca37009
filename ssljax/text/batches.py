"""Batches of sentence pairs as a pure function of (seed, step), through phases of different lengths."""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ssljax import sharding
from ssljax.data.loader import local_rows
from ssljax.data.order import batch_indices
from ssljax.text.corpus import Corpus
from ssljax.text.instances import assemble, plan
from ssljax.types import Array, BadInputError


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
) -> Iterator[dict[str, Array]]:
    """The batches of steps `start_step` to `num_steps - 1`, split over the devices of the present mesh.

    Every pass over the corpus draws new instances and shuffles them; all passes have as many
    batches as the first. The next batch is put together on a thread meanwhile.

    Args:
        corpus: prepared text.
        phases: in order; each begins with its own first pass.
        seed: seed of the instances and of the shuffle.
        start_step: the first step; `n` resumes exactly where a run of n steps stopped.
        num_steps: the step to stop before, counted from 0 whatever `start_step` is.
        shift: read the data of `step + shift` at each step; the phases do not move.
        dupe_factor: how many different passes there are before their instances come again (the official code's 10);
            None always draws new ones.

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
    rows = [local_rows(phase.batch_size) for phase in phases]
    plans = functools.lru_cache(maxsize=1)(functools.partial(plan, corpus, seed=seed))

    def read(step: int) -> dict[str, np.ndarray]:
        number, within_phase = phase_of(phases, step)
        return _read(corpus, phases[number], seed, within_phase + shift, dupe_factor, rows[number], plans)

    return _ahead(read, range(start_step, num_steps))


def samples(
    corpus: Corpus, phases: Sequence[Phase], step: int, *, seed: int = 0, shift: int = 0, dupe_factor: int | None = None
) -> list[str]:
    """The samples that make up the batch of a step, as "pass:instance"; the options are those of `batches`."""
    number, within_phase = phase_of(phases, step)
    everything = np.arange(phases[number].batch_size)
    plans = functools.partial(plan, corpus, seed=seed)
    epoch, _, examples = _drawn(corpus, phases[number], seed, within_phase + shift, dupe_factor, everything, plans)
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
    return len(plan(corpus, length=phase.length, seed=seed, epoch=0))


def _read(corpus, phase, seed, step, dupe_factor, local, plans) -> dict[str, np.ndarray]:
    """This process's rows of a batch; `step` counts from the start of the phase."""
    epoch, instances, examples = _drawn(corpus, phase, seed, step, dupe_factor, local, plans)
    return {
        **assemble(corpus, instances[examples], phase.length),
        "example": examples.astype(np.int32),
        "epoch": np.full(len(local), epoch, np.int32),
    }


def _drawn(corpus, phase, seed, step, dupe_factor, local, plans) -> tuple[int, np.ndarray, np.ndarray]:
    """The pass that a step is in, its instances, and the numbers of those in rows `local` of the batch."""
    epoch, within = divmod(step, num_examples(corpus, phase, seed) // phase.batch_size)
    instances = plans(length=phase.length, epoch=epoch if dupe_factor is None else epoch % dupe_factor)
    # one batch of all instances is the epoch's whole order
    order = batch_indices(seed, epoch, size=len(instances), batch_size=len(instances))
    # passes differ a little in size: one that is smaller than the first begins again
    return epoch, instances, order[(within * phase.batch_size + local) % len(order)]


def _ahead(read, steps: range) -> Iterator[dict[str, Array]]:
    """`read(step)` for each step, the next one on a thread while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(read, steps[0]) if steps else None
        for step in steps:
            assert waiting is not None
            batch = waiting.result()
            waiting = thread.submit(read, step + 1) if step + 1 in steps else None
            yield sharding.shard_batch(batch)
