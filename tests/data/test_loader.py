import functools
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssljax import sharding
from ssljax.data.loader import _read_streamed, batch_indices, batches, load_all, local_rows
from ssljax.types import BadInputError
from ssljax.vision.pictures import random_crops, resize_center
from ssljax.vision.sources import open_source

RNG = np.random.default_rng(0)
RUN = {"batch_size": 8, "seed": 3, "num_steps": 7, "fields": ("image", "label")}
SIZES = st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**40), st.integers(0, 2**33), SIZES)
def test_an_epoch_is_a_permutation(seed, epoch, sizes):
    size, batch_size = sizes
    steps = size // batch_size
    batch = functools.partial(batch_indices, seed, size=size, batch_size=batch_size)
    epoch_indices = np.concatenate([batch(epoch * steps + step) for step in range(steps)])
    assert epoch_indices.dtype == np.int64
    assert len(epoch_indices) == steps * batch_size
    assert len(set(epoch_indices)) == len(epoch_indices)
    assert set(epoch_indices) <= set(range(size))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 8))
def test_batch_size_does_not_change_the_order(seed, batch_size):
    whole = batch_indices(seed, 0, size=64, batch_size=64)
    parts = [batch_indices(seed, step, size=64, batch_size=batch_size) for step in range(64 // batch_size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[: 64 // batch_size * batch_size])


def test_epochs_and_seeds_are_shuffled_apart():
    orders = [batch_indices(seed, step, size=500, batch_size=500) for seed in range(3) for step in range(3)]
    for i, order in enumerate(orders):
        assert not np.array_equal(order, np.arange(500))
        for other in orders[:i]:
            assert np.mean(order == other) < 0.05


def test_the_shuffle_is_uniform():
    firsts = [batch_indices(seed, 0, size=10, batch_size=1)[0] for seed in range(3000)]
    np.testing.assert_allclose(np.bincount(firsts, minlength=10) / 3000, 0.1, atol=0.022)  # 4 sigma


def test_the_order_is_pinned():
    assert batch_indices(2**40, 10**6, size=10, batch_size=4).tolist() == [0, 6, 3, 7]
    assert batch_indices(7, 5, size=10, batch_size=4).tolist() == [8, 4, 6, 1]


def test_indices_that_cannot_be():
    with pytest.raises(BadInputError, match="batch_size=6 must lie in 1 to 5, the number of examples"):
        batch_indices(0, 0, size=5, batch_size=6)
    with pytest.raises(BadInputError, match="seed=-1"):
        batch_indices(-1, 0, size=5, batch_size=2)


@pytest.fixture
def pixels():
    return {
        "train_images": RNG.integers(0, 256, (27, 5, 6, 3), dtype=np.uint8),
        "train_labels": np.arange(27),
    }


@pytest.fixture
def source(tmp_path, pixels):
    np.savez(tmp_path / "x.npz", **pixels)
    return open_source(f"arrays:{tmp_path}/x.npz", "train")


def numpy_batches(*args, **kwargs):
    return [{name: np.asarray(x) for name, x in batch.items()} for batch in batches(*args, **kwargs)]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("resident_bytes", [1 << 31, 0], ids=["resident", "streamed"])
def test_batches_are_the_indexed_records_on_any_mesh(source, pixels, each_mesh, resident_bytes):
    found = list(batches(source, **RUN, resident_bytes=resident_bytes))
    assert len(found) == 7
    for step, batch in enumerate(found):
        indices = batch_indices(3, step, size=27, batch_size=8)
        np.testing.assert_array_equal(batch["image"], pixels["train_images"][indices])
        np.testing.assert_array_equal(batch["label"], indices)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        assert len(batch["image"].sharding.device_set) == (each_mesh or 1)
        if each_mesh:
            assert batch["image"].addressable_data(0).shape == (8 // each_mesh, 5, 6, 3)
            assert jax.typeof(batch["image"]).sharding.spec[0] == sharding.DATA


@pytest.mark.parametrize("options", [{}, {"resident_bytes": 0}, {"transform": random_crops(4)}])
@pytest.mark.parametrize("start_step", [1, 3, 6, 7])
def test_resuming_goes_on_where_it_stopped(source, options, start_step):
    whole = numpy_batches(source, **RUN, **options)
    assert_same(numpy_batches(source, **RUN, **options, start_step=start_step), whole[start_step:])


def test_a_set_over_the_limit_is_not_put_on_the_device(source, monkeypatch):
    monkeypatch.setattr("ssljax.data.loader._resident_batches", None)
    pictures = functools.partial(batches, source, batch_size=8, num_steps=7)
    assert len(list(pictures(resident_bytes=27 * 90 - 1))) == 7
    with pytest.raises(TypeError):
        pictures(resident_bytes=27 * 90)


def test_views_from_the_host(source, each_mesh):
    found = numpy_batches(source, **RUN, transform=random_crops(4, views=3))
    assert found[0]["image"].shape == (8, 3, 4, 4, 3)
    assert not np.array_equal(found[0]["image"][:, 0], found[0]["image"][:, 1])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_slices_of_the_same_batches(source, processes):
    transform = random_crops(4)
    whole = numpy_batches(source, **RUN | {"fields": ("image",)}, transform=transform)
    for process in range(processes):
        rows = np.split(np.arange(8), processes)[process]
        read = functools.partial(_read_streamed, source, transform, 3, 8, 2, rows)
        local = [read(number)["image"] for number in range(5 * len(rows))]  # type: ignore[index]
        wanted = np.concatenate([batch["image"][rows] for batch in whole[2:]])
        np.testing.assert_array_equal(np.stack(local), wanted)


def test_the_rows_of_one_process_are_all_rows(each_mesh):
    np.testing.assert_array_equal(local_rows(16), np.arange(16))


@pytest.mark.slow
@pytest.mark.parametrize("start_step", [0, 5])
def test_workers_change_nothing(source, start_step):
    run = RUN | {"transform": random_crops(4), "start_step": start_step}
    assert_same(numpy_batches(source, **run, workers=2), numpy_batches(source, **run))


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        pixels = RNG.integers(0, 256, (8 + i, 20 - i, 3), dtype=np.uint8)
        (tmp_path / str(i // 5)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / str(i // 5) / f"{i}.png")
    return tmp_path


def test_pictures_of_different_sizes_need_a_transform(folder):
    source = open_source(f"folder:{folder}", "train")
    for resident_bytes in (0, 1 << 31):
        with pytest.raises(BadInputError, match=r"image comes in different shapes such as .*; give a transform"):
            list(batches(source, batch_size=10, num_steps=1, resident_bytes=resident_bytes))
    with pytest.raises(BadInputError, match=r"different shapes .*; give a transform"):
        load_all(source)
    assert load_all(source, transform=resize_center(6, 7))["image"].shape == (10, 6, 6, 3)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_pictures_stop_the_run_or_are_counted(folder, workers):
    (folder / "1" / "7.png").write_bytes(b"not a picture")
    run = {"batch_size": 10, "num_steps": 1, "transform": random_crops(4), "workers": workers}
    with pytest.raises(BadInputError, match=r"1/7\.png: not a picture .*; fix it or pass --skip-bad\.$"):
        list(batches(open_source(f"folder:{folder}", "train"), **run))
    tolerant = open_source(f"folder:{folder}", "train", skip_bad=True)
    assert len(list(batches(tolerant, **run))) == 1
    assert list(tolerant.bad) == [str(folder / "1" / "7.png")]


def test_load_all(source, pixels, folder):
    whole = load_all(source)
    np.testing.assert_array_equal(whole["image"], pixels["train_images"])
    np.testing.assert_array_equal(whole["label"], np.arange(27))
    assert (whole["image"].dtype, whole["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(load_all(source, limit=9)["label"], np.arange(0, 27, 3))
    assert len(load_all(source, limit=100)["label"]) == 27
    some = load_all(open_source(f"folder:{folder}", "train"), transform=resize_center(4, 4), limit=4)
    assert set(some["label"]) == {0, 1}
    with pytest.raises(BadInputError, match="limit=0 reads no records"):
        load_all(source, limit=0)


def test_unlabelled_sets(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=RNG.integers(0, 256, (9, 4, 4), dtype=np.uint8))
    source = open_source(f"arrays:{tmp_path}/x.npz", "train")
    assert set(load_all(source)) == {"image"}
    assert next(batches(source, batch_size=4, num_steps=1))["image"].shape == (4, 4, 4, 1)
    with pytest.raises(BadInputError, match="has no labels"):
        batches(source, batch_size=4, num_steps=1, fields=("image", "label"))


def test_requests_that_cannot_be_met(source):
    with pytest.raises(BadInputError, match="has 27 examples, fewer than batch_size=28"):
        batches(source, batch_size=28, num_steps=1)
    with pytest.raises(BadInputError, match="no field 'depth'; use some of: image, label"):
        batches(source, batch_size=4, num_steps=1, fields=("depth",))
    with (
        sharding.use_mesh(sharding.make_mesh(8)),
        pytest.raises(BadInputError, match="batch_size=12 does not divide over the 8 devices; use a multiple of 8"),
    ):
        batches(source, batch_size=12, num_steps=1)


def test_any_random_access_source_will_do():
    records = [{"image": np.full((2, 2, 1), i, np.uint8)} for i in range(6)]
    for resident_bytes in (0, 1 << 31):
        (batch,) = batches(records, batch_size=6, num_steps=1, resident_bytes=resident_bytes)
        assert sorted(np.asarray(batch["image"])[:, 0, 0, 0]) == list(range(6))
    assert isinstance(batch["image"], jax.Array)


class Counted:
    """Records in memory; every read, in whatever process, lengthens a file by a byte."""

    def __init__(self, path, size=400):
        self.path, self.size = str(path), size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        with open(self.path, "ab") as file:
            file.write(b".")
        return {"image": np.full((2, 2, 1), index % 256, np.uint8)}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_reading_ahead_is_bounded(tmp_path, workers):
    log = tmp_path / "reads"
    log.touch()
    drawn = batches(Counted(log), batch_size=16, num_steps=20, fields=["image"], resident_bytes=0, workers=workers)
    for step in range(1, 4):
        next(drawn)
        time.sleep(1)  # time enough to read all of it
        held = log.stat().st_size - 16 * step - 1  # one was read to know the size of a record
        assert 16 <= held <= (3 * 16 + 2 * workers if workers else 2 * 16)
    del drawn
