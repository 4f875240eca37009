"""A data set resident on the devices, from which the compiled train step draws its batches itself.

Each device holds an equal share of the records. The step cuts its indices out of the epoch's order, which is uploaded
an epoch ahead; each device picks those of the batch's records that it has, and one all-to-all brings them to the
devices that compute with them: it moves the batch's own bytes and nothing else, whatever the size of the set.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.data.order import permutation
from ssljax.types import Array, Batch

UNKNOWN = 1 << 31  # bytes a device may give to the data if it does not report its memory
SHARE = 4  # a device that does gives 1 / SHARE of it


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("arrays", "orders"), meta_fields=("size", "batch_size")
)
@dataclasses.dataclass(frozen=True)
class Resident:
    """What the step draws from, in the place of a batch.

    Attributes:
        arrays: {field: [N, ...]}, rows split over `data`, N rounded up to a multiple of the devices.
        orders: int32[2, size], the same everywhere: row `epoch % 2` is an epoch's order; this epoch's and the next's.
        size: number of records.
        batch_size: global batch size.
    """

    arrays: dict[str, Array]
    orders: Array
    size: int
    batch_size: int


def budget() -> int:
    """Bytes of each device that a data set may take: a quarter of its memory, 2 GiB if that is not known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", UNKNOWN * SHARE) // SHARE


def draws(arrays: dict[str, np.ndarray], *, seed: int, batch_size: int, steps: range) -> Iterator[Resident]:
    """For each of `steps` what it draws its batch from; nothing is sent to the devices but an order an epoch.

    Args:
        arrays: {field: [size, ...]} on the host, the same in all processes.
        seed: seed of the shuffle.
        batch_size: global batch size, a multiple of the devices.
        steps: as the loader counts them, over all epochs.

    Returns:
        An iterator; `take(item, step)` is the batch of `step`, and of later ones up to the end of the next epoch.
    """
    size = len(next(iter(arrays.values())))
    per_epoch, epoch, ahead = size // batch_size, None, None
    everywhere = sharding.replicated_sharding()  # the present mesh is not that of another thread
    placed = place(arrays)
    del arrays

    def upload(epoch: int) -> Array:
        pair = np.empty((2, size), np.int32)
        for number in (epoch, epoch + 1):
            pair[number % 2] = permutation(seed, number, size)
        return replicate(pair, everywhere)

    with ThreadPoolExecutor(1, "order") as pool:
        for step in steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                orders = (ahead or pool.submit(upload, epoch)).result()
                ahead = pool.submit(upload, epoch + 1)
            yield Resident(placed, orders, size, batch_size)


def place(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
    """Shard arrays over the devices of the present mesh, an equal share of rows on each, the last filled with zeros."""
    placed, devices = sharding.data_sharding(), sharding.data_devices()

    def put(values: np.ndarray) -> Array:
        rows = -(-len(values) // devices) * devices
        shape = (rows, *values.shape[1:])
        if placed is None:
            return jax.device_put(values)

        def share(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            part = values[start:stop]
            missing = stop - start - len(part)
            return np.pad(part, [(0, missing), *[(0, 0)] * (values.ndim - 1)]) if missing else part

        return _lay_out(shape, placed, share)

    return jax.tree.map(put, arrays)


def take(batch: Batch | Resident, step: Array) -> Batch:
    """The batch of `step`; for the inside of a compiled step.

    Args:
        batch: a `Resident`; a batch is returned unchanged.
        step: int32 scalar, of this epoch or the next; the run's step plus its guard's shift.

    Returns:
        {field: [batch_size, ...]}, split over `data`.
    """
    if not isinstance(batch, Resident):
        return batch
    epoch, within = jnp.divmod(step, batch.size // batch.batch_size)
    order = jax.lax.dynamic_index_in_dim(batch.orders, epoch % 2, keepdims=False)
    indices = jax.lax.dynamic_slice_in_dim(order, within * batch.batch_size, batch.batch_size)
    rows = {name: _rows(values, indices) for name, values in batch.arrays.items()}
    # what follows is compiled apart from the selection
    return jax.lax.optimization_barrier(rows)


def rows_of(batch: Batch | Resident) -> int:
    """Examples in a batch."""
    return batch.batch_size if isinstance(batch, Resident) else len(next(iter(batch.values())))


def _rows(values: Array, indices: Array) -> Array:
    if not sharding.has_mesh():
        return values[indices]
    devices = sharding.data_devices()

    def pick(share: Array, indices: Array) -> Array:
        at = indices - jax.lax.axis_index(sharding.DATA) * len(share)
        mine = (at >= 0) & (at < len(share))
        rows = share[jnp.where(mine, at, 0)]
        rows = jnp.where(mine.reshape(-1, *(1,) * (rows.ndim - 1)), rows, jnp.zeros((), rows.dtype))
        sent = rows.reshape(devices, -1, *rows.shape[1:])
        # every row comes from one device, the others send zeros
        return jax.lax.all_to_all(sent, sharding.DATA, 0, 0).sum(axis=0, dtype=rows.dtype)

    split = jax.shard_map(pick, in_specs=(P(sharding.DATA), P()), out_specs=P(sharding.DATA))
    return split(values, indices)


def replicate(values: np.ndarray, everywhere: Any) -> Array:
    """Host values on every device of `everywhere`, a `sharding.replicated_sharding()`."""
    if everywhere is None:
        return jax.device_put(values)
    return _lay_out(values.shape, everywhere, lambda index: values[index])


def _lay_out(shape: tuple[int, ...], layout: Any, part: Callable[[Any], np.ndarray]) -> Array:
    # one device_put onto the devices of several processes would make them talk, from a thread in any order
    own = layout.addressable_devices_indices_map(shape).items()
    return jax.make_array_from_single_device_arrays(
        shape, layout, [jax.device_put(part(index), device) for device, index in own]
    )
