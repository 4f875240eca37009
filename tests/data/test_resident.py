"""Sets that lie on the devices: the batches of the streamed path, drawn inside the step from an equal share each."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.data import resident
from ssljax.data.loader import batches
from ssljax.data.order import batch_indices

RNG = np.random.default_rng(0)


def records(count, shape=(5, 6, 3)):
    return [{"image": RNG.integers(0, 256, shape, np.uint8), "label": number} for number in range(count)]


def drawn(source, **options: Any):
    """The batches as a compiled step draws them."""
    take = jax.jit(resident.take)
    first: int = options.get("start_step", 0) + options.get("shift", 0)
    items = batches(source, undrawn=True, **options)
    return [take(item, jnp.int32(step)) for step, item in zip(itertools.count(first), items, strict=False)]


@pytest.mark.parametrize(("count", "batch_size"), [(8, 8), (27, 8), (50, 16)])
def test_drawn_batches_are_the_streamed_ones(each_mesh, count, batch_size):
    source, steps = records(count), 3 * (count // batch_size) + 1
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 3, "fields": ("image", "label"), "num_steps": steps}
    resumed: dict[str, Any] = {"start_step": 2, "shift": 5}
    for more in ({}, resumed):
        streamed = list(batches(source, resident_bytes=0, **options | more))
        found = drawn(source, **options | more)
        assert len(found) == len(streamed) > 0
        for ours, theirs in zip(found, streamed, strict=True):
            for name in ("image", "label"):
                assert jax.typeof(ours[name]) == jax.typeof(theirs[name])
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_one_item_serves_to_the_end_of_the_next_epoch():
    source = records(10)
    item = next(batches(source, batch_size=4, seed=7, fields=("label",), num_steps=9, start_step=3, undrawn=True))
    for step in range(2, 6):  # epochs 1 and 2
        found = resident.take(item, jnp.int32(step))["label"]
        np.testing.assert_array_equal(found, batch_indices(7, step, size=10, batch_size=4))


def test_the_set_is_split_over_the_devices(each_mesh):
    placed = resident.place({"image": np.arange(30, dtype=np.uint8).reshape(10, 3)})["image"]
    devices = each_mesh or 1
    share = -(-10 // devices)
    assert {piece.data.shape for piece in placed.addressable_shards} == {(share, 3)}
    np.testing.assert_array_equal(np.asarray(placed)[:10], np.arange(30).reshape(10, 3))


@pytest.mark.parametrize("devices", [2, 8])
def test_a_step_moves_its_batch_and_nothing_else(devices):
    source = records(64, shape=(4, 4, 3))
    with sharding.use_mesh(sharding.make_mesh(devices)):
        item = next(batches(source, batch_size=16, num_steps=1, undrawn=True))
        text = jax.jit(resident.take).lower(item, jnp.int32(0)).compile().as_text() or ""
    assert "all-to-all" in text
    for other in ("all-gather", "all-reduce", "reduce-scatter", "collective-permute"):
        assert other not in text
    sent = [line for line in text.splitlines() if " all-to-all(" in line]
    assert len(sent) == 1
    assert sent[0].count("u8[") > 0
    assert "64" not in sent[0].split(" all-to-all(")[0].split("=")[1]  # not the records of the set


def test_the_limit_is_that_of_each_device():
    source = records(32, shape=(4, 4, 1))
    options = {"batch_size": 8, "num_steps": 1, "undrawn": True, "resident_bytes": 32 * 16 // 8}
    assert isinstance(next(batches(source, **options)), dict)
    with sharding.use_mesh(sharding.make_mesh(8)):
        assert isinstance(next(batches(source, **options)), resident.Resident)


def test_a_batch_from_the_host_passes_through():
    batch = {"image": np.zeros((4, 2))}
    assert resident.take(batch, jnp.int32(3)) is batch
    assert resident.rows_of(batch) == 4


def test_the_budget_is_a_share_of_the_memory(monkeypatch):
    assert resident.budget() == 2**31  # a CPU does not say
    monkeypatch.setattr(
        jax, "local_devices", lambda: [type("D", (), {"memory_stats": lambda self: {"bytes_limit": 64}})()]
    )
    assert resident.budget() == 16
