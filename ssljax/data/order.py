"""Which records are in a batch, and their randomness, as pure functions of the seed and the position."""

import functools

import numpy as np

from ssljax.types import BadInputError

SHUFFLE, RECORDS = 0, 1  # two independent streams of one seed


def batch_indices(seed: int, step: int, *, size: int, batch_size: int) -> np.ndarray:
    """Which records are in batch `step`: each epoch is a permutation, its last partial batch is dropped.

    Args:
        seed: seed of the shuffle, 0 or more.
        step: number of the batch, counted from 0 over all epochs.
        size: number of records.
        batch_size: global batch size.

    Returns:
        int64[batch_size].

    Raises:
        BadInputError: the seed or the step is negative, or a batch is larger than the set.

    >>> [batch_indices(0, step, size=5, batch_size=2).tolist() for step in range(4)]
    [[3, 2], [4, 1], [2, 1], [0, 4]]
    """
    if seed < 0 or step < 0:
        raise BadInputError(f"seed={seed}, step={step}: both must be 0 or more.")
    if not 1 <= batch_size <= size:
        raise BadInputError(f"batch_size={batch_size} must lie in 1 to {size}, the number of examples.")
    epoch, within = divmod(step, size // batch_size)
    return permutation(seed, epoch, size)[within * batch_size : (within + 1) * batch_size]


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of the records in an epoch, int64[size]: that of raw Philox words.

    NumPy promises never to change those, unlike how it shuffles by them.
    """
    words = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(SHUFFLE, epoch))).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def record_rng(seed: int, position: int) -> np.random.Generator:
    """The generator for the record at `position` = step * batch_size + row of the global batch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(RECORDS, position))))
