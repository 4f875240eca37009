"""MoCo's negative queue: the keys of past batches, one leaf of the training state."""

import dataclasses

import jax
import jax.numpy as jnp

from ssljax.types import Array, BadInputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queue:
    """A ring of keys, the same on every device.

    Attributes:
        keys: [K, D] float32.
        pointer: int32 scalar, the oldest row: the next one to be overwritten.
    """

    keys: Array
    pointer: Array


def init(key: Array, size: int, dim: int) -> Queue:
    """A queue of random directions, which the first K keys replace.

    Args:
        key: PRNG key.
        size: K, the number of keys.
        dim: D, the length of a key.

    Raises:
        BadInputError: a size or a dimension below 1.

    Reference: arXiv 1911.05722, section 3.2; facebookresearch/moco `moco/builder.py`.
    """
    if size < 1 or dim < 1:
        raise BadInputError(f"A queue of {size} keys of length {dim} is empty; both must be at least 1.")
    keys = jax.random.normal(key, (size, dim), jnp.float32)
    return Queue(keys / jnp.linalg.norm(keys, axis=1, keepdims=True), jnp.zeros((), jnp.int32))


def enqueue(queue: Queue, keys: Array) -> Queue:
    """Overwrite the B oldest keys. No gradient passes.

    A symmetric method enqueues both views' keys in one call. Enqueue after the loss: a positive that is
    already in the queue is a negative too.

    Args:
        queue: K keys of length D.
        keys: [B, D], stored as given (the caller normalises), the same on every device (the caller gathers).

    Returns:
        The queue with the keys written from `pointer` on, wrapping to row 0 where K is not a multiple of B.

    Raises:
        BadInputError: B > K, or another D.

    Reference: arXiv 1911.05722, Algorithm 1; facebookresearch/moco `moco/builder.py`.
    Differs from the official code, which requires K % B == 0; here any B <= K is valid, and B may change.

    >>> queue = Queue(jnp.zeros((3, 1)), jnp.int32(2))
    >>> enqueue(queue, jnp.array([[1.0], [2.0]])).keys.ravel().tolist()
    [2.0, 0.0, 1.0]
    """
    size, dim = queue.keys.shape
    if keys.ndim != 2 or keys.shape[1] != dim:
        raise BadInputError(f"keys {keys.shape} do not fit a queue of keys of length {dim}; give [B, {dim}].")
    batch = keys.shape[0]
    if batch > size:
        raise BadInputError(f"A batch of {batch} keys does not fit a queue of {size}; use a larger queue.")
    keys = jax.lax.stop_gradient(keys).astype(queue.keys.dtype)
    # dynamic_update_slice would clamp a start beyond K - B and overwrite the wrong rows
    start = jnp.minimum(queue.pointer, size - batch)
    wrapped = queue.pointer - start
    rolled = jnp.roll(keys, wrapped, axis=0)
    unwrapped = (jnp.arange(batch) >= wrapped)[:, None]
    tail = jax.lax.dynamic_slice_in_dim(queue.keys, start, batch)
    ring = jax.lax.dynamic_update_slice_in_dim(queue.keys, jnp.where(unwrapped, rolled, tail), start, 0)
    head = jnp.where(unwrapped, ring[:batch], rolled)
    ring = jax.lax.dynamic_update_slice_in_dim(ring, head, 0, 0)
    return Queue(ring, (queue.pointer + batch) % size)
