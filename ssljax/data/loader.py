"""Batches as a pure function of (seed, step): the same on any number of devices, processes and workers.

Small sets of one shape are resident on the devices as uint8; the others stream through grain.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from ssljax import sharding
from ssljax.data import resident
from ssljax.data.order import batch_indices, record_rng
from ssljax.data.records import (
    Record,
    Transform,
    arrays_of,
    check_enough,
    name_of,
    read_record,
    require_labels,
    skips,
    summary,
)
from ssljax.data.workers import in_processes, take
from ssljax.types import Array, BadInputError

THREADS = 16
AHEAD = 16


def batches(
    source: Any,
    *,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    num_steps: int,
    shift: int = 0,
    transform: Transform | None = None,
    fields: Sequence[str] = (),
    resident_bytes: int | None = None,
    workers: int = 0,
    undrawn: bool = False,
) -> Iterator[Any]:
    """The batches of steps `start_step` to `num_steps - 1`, split over the devices of the present mesh.

    Args:
        source: records by index: a `Source` or any of grain's random-access sources.
        batch_size: global batch size; a multiple of the number of devices.
        seed: seed of the shuffle and of the transform's randomness.
        start_step: the first step; `n` resumes exactly where a run of n steps stopped.
        num_steps: the step to stop before, counted from 0 whatever `start_step` is.
        shift: read the data of `step + shift` at each step.
        transform: `(record, rng) -> record` on the host, such as `pictures.random_crops(224)`.
        fields: names of the fields to yield, such as `("label",)`; empty: all but the label.
        resident_bytes: a set without a transform is resident on the devices, split over them, if each one's share is at
            most this; None: `resident.budget()`, 0 always streams.
        workers: processes that read and transform; 0 uses threads. Records of a streamed set prefetched beyond the
            present batch: two batches' rows of this process; with workers three batches' rows, whatever the number of
            workers, and two more records per worker. A batch counts as `AHEAD` rows at least.
        undrawn: for a resident set give what `resident.take` draws a batch from instead of the batch,
            so that a compiled step can do it.

    Returns:
        An iterator of {field: [batch_size, ...]}, numbers as int32; or of `resident.Resident`.

    Raises:
        BadInputError: too few records for a batch, no such field, different shapes, an unreadable record.
    """
    check_enough(source, batch_size)
    sharding.check_batch_size(batch_size)
    if "label" in fields:
        require_labels(source)
    steps = range(start_step + shift, num_steps + shift)
    room = sharding.data_devices() * (resident.budget() if resident_bytes is None else resident_bytes)
    if transform is None and len(source) * _record_bytes(read_record(source, 0), fields) <= room:
        arrays = _everything(source, None, range(len(source)), fields or _inputs(read_record(source, 0)))
        return _resident_batches(arrays, seed, batch_size, steps, undrawn)
    return _streamed_batches(source, transform, fields, seed, batch_size, steps, workers)


def load_all(
    source: Any,
    *,
    transform: Transform | None = None,
    limit: int | None = None,
    indices: Sequence[int] | None = None,
    fields: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole set in memory, in its order, for evaluation.

    Args:
        source: records by index.
        transform: such as `pictures.resize_center(224, 256)`.
        limit: read only this many, evenly spaced, so that a set sorted by class keeps all its classes.
        indices: read only these; not with `limit`.
        fields: names of the fields to load; empty: those of the first record.

    Returns:
        {field: [N, ...]}; numbers, such as labels, as int32.

    Raises:
        BadInputError: records of different shapes, or an unreadable one.
    """
    count = len(source) if limit is None else min(limit, len(source))
    if count < 1:
        raise BadInputError(f"{name_of(source)}: limit={limit} reads no records; give 1 to {len(source)}.")
    indices = [k * len(source) // count for k in range(count)] if indices is None else indices
    return _everything(source, transform, indices, fields)


def _everything(
    source: Any, transform: Transform | None, indices: Sequence[int], fields: Sequence[str]
) -> dict[str, np.ndarray]:
    """Records as arrays; a source that is in memory already gives its own, a set of many GB is not copied."""
    whole = arrays_of(source) if transform is None else None
    if whole is not None and all(field in whole for field in fields):
        chosen = slice(None) if len(indices) == len(source) else np.asarray(indices)
        return {field: whole[field][chosen] for field in fields or whole}
    records = _read_all(source, transform, indices)
    return _stack(source, records, fields or [field for field in records[0] if field != "skipped"])


def _inputs(record: Record) -> list[str]:
    """The fields of a record without those that no training step takes."""
    return [field for field in record if field not in ("label", "skipped")]


def _record_bytes(record: Record, fields: Sequence[str]) -> int:
    return sum(np.asarray(record[field]).nbytes for field in fields or _inputs(record) if field in record)


def local_rows(batch_size: int) -> np.ndarray:
    """Which rows of a global batch this process reads under the present mesh: int64[rows], ascending."""
    placed = sharding.data_sharding()
    if placed is None:
        return np.arange(batch_size)
    slices = placed.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices if index]))


def _read_all(source: Any, transform: Transform | None, indices: Sequence[int]) -> list[Record]:
    def read(index):
        return _transformed(source, transform, index, record_rng(0, index))

    with ThreadPoolExecutor(min(THREADS, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(read, indices))


def _stack(source: Any, records: list[Record], fields: Iterable[str]) -> dict[str, np.ndarray]:
    """Records -> {field: [N, ...]}; numbers become int32."""
    arrays = {}
    for field in fields:
        if field not in records[0]:
            held = ", ".join(records[0])
            raise BadInputError(f"{name_of(source)} has no field {field!r}; use some of: {held}.")
        values = [np.asarray(record[field]) for record in records]
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            found = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
            raise BadInputError(
                f"{name_of(source)}: {field} comes in different shapes such as {found}; give a transform to "
                "one shape, such as pictures.resize_center or pictures.random_crops."
            )
        arrays[field] = np.stack(values) if values[0].ndim else np.array(values, np.int32)
    return arrays


def _resident_batches(
    arrays: dict[str, np.ndarray], seed: int, batch_size: int, steps: range, undrawn: bool
) -> Iterator[Any]:
    items = resident.draws(arrays, seed=seed, batch_size=batch_size, steps=steps)
    del arrays
    if undrawn:
        yield from items
        return
    for step, item in zip(steps, items, strict=True):
        yield _take(item, resident.replicate(np.asarray(step, np.int32), sharding.replicated_sharding()))


_take = jax.jit(resident.take)


def _streamed_batches(
    source: Any,
    transform: Transform | None,
    fields: Sequence[str],
    seed: int,
    batch_size: int,
    steps: range,
    workers: int,
) -> Iterator[dict[str, Array]]:
    import grain

    rows = local_rows(batch_size)
    read = functools.partial(_read_streamed, source, transform, seed, batch_size, steps.start, rows)
    ahead = max(AHEAD, len(rows))
    # each worker's threads hold a share, its queue another, and the parent's side of that queue the third
    share = -(-ahead // max(workers, 1))
    threads = grain.ReadOptions(2, share) if workers else grain.ReadOptions(THREADS, 2 * ahead)
    records = grain.MapDataset.range(len(steps) * len(rows)).map(read).to_iter_dataset(threads)
    if workers:
        records = in_processes(records, workers, share)
    iterator = iter(records)
    try:
        for step in steps:
            batch = take(source, iterator, len(rows), step, workers)
            _note(source, batch)
            yield sharding.shard_batch(_stack(source, batch, fields or _inputs(batch[0])))
    finally:
        iterator.close()


def _read_streamed(source, transform, seed, batch_size, start_step, rows, number: int) -> Record | str:
    """Record `number` of those this process reads; an error travels as its sentence, since grain wraps a worker's."""
    step, row = start_step + number // len(rows), int(rows[number % len(rows)])
    index = int(batch_indices(seed, step, size=len(source), batch_size=batch_size)[row])
    try:
        return _transformed(source, transform, index, record_rng(seed, step * batch_size + row))
    except BadInputError as error:
        return str(error)


def _transformed(source: Any, transform: Transform | None, index: int, rng: np.random.Generator) -> Record:
    record = read_record(source, index)
    if transform is None:
        return record
    try:
        made = transform(record, rng)
    except Exception as error:
        raise BadInputError(
            f"{name_of(source)}: the transform of record {index} failed ({summary(error)}); fix either of them."
        ) from error
    return made | {"skipped": record["skipped"]} if "skipped" in record else made


def _note(source: Any, records: list[Record | str]) -> None:
    """Raise the first error, and count what was skipped in other processes."""
    for record in records:
        if isinstance(record, str):
            raise BadInputError(record)
        if "skipped" in record and skips(source):
            source.bad.update(record["skipped"])
