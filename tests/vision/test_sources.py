"""Sources of arrays and folders: what they hold, how pictures are decoded, fingerprints."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssljax.data import loader
from ssljax.types import BadInputError
from ssljax.vision import array_files
from ssljax.vision.sources import Source, open_source
from tests.vision.picture_files import RNG, colours, encoded, save

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_of_pixels(tmp_path, shape, labelled):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    labels = {"train_labels": np.array([2, 0, 1, 1, 0], np.uint8)} if labelled else {}
    source = open_source(save(tmp_path / "x.npz", train_images=images, **labels), "train")
    assert len(source) == 5
    assert source.num_classes == (3 if labelled else None)
    assert source.class_names == (("0", "1", "2") if labelled else None)
    for i, record in enumerate(source):
        np.testing.assert_array_equal(record["image"], images[i].reshape(4, 6, -1))
        assert record.get("label") == ([2, 0, 1, 1, 0][i] if labelled else None)


def test_arrays_of_encoded_pictures(tmp_path):
    pixels = [colours(3 + i, 5) for i in range(4)]
    files = [encoded(image) for image in pixels]
    source = open_source(
        save(
            tmp_path / "x.npz",
            test_jpeg=np.frombuffer(b"".join(files), np.uint8),
            test_offsets=np.cumsum([0, *map(len, files)]),
            test_labels=np.array([0, 1, 1, 0]),
            class_names=np.array(["red", "blue"]),
        ),
        "test",
    )
    assert source.class_names == ("red", "blue")
    for image, label, record in zip(pixels, [0, 1, 1, 0], source, strict=True):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


def test_folder_of_classes(classes):
    path, pixels = classes
    source = open_source(f"folder:{path}", "train")
    assert (len(source), source.class_names) == (6, ("cat", "dog"))
    for image, label, record in zip(pixels, [0, 0, 0, 1, 1, 1], source, strict=True):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


def test_folder_with_splits_and_loose_files(tmp_path):
    for split, count in [("train", 3), ("test", 2)]:
        (tmp_path / split).mkdir()
        for i in range(count):
            (tmp_path / split / f"{i}.JPG").write_bytes(encoded(colours(8, 8), "JPEG"))
        (tmp_path / split / "notes.txt").write_text("not a picture")
    assert [len(open_source(f"folder:{tmp_path}", split)) for split in ("train", "test")] == [3, 2]
    source = open_source(f"folder:{tmp_path}", "test")
    assert source.class_names is None
    assert "label" not in source[0]
    with pytest.raises(BadInputError, match="no split 'val'; there are: test, train"):
        open_source(f"folder:{tmp_path}", "val")


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, file_format):
    grey = np.repeat(RNG.choice(np.array([0, 255], np.uint8), (8, 8, 1)), 3, axis=2)
    (tmp_path / f"0.{file_format.lower()}").write_bytes(encoded(grey, file_format, mode))
    image = open_source(f"folder:{tmp_path}", "train")[0]["image"]
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_allclose(image.astype(int), grey, atol=40 if file_format == "JPEG" else 0)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 256, 0x1234, 0xFFFF]], np.uint16)
    (tmp_path / "0.png").write_bytes(encoded(deep))
    image = open_source(f"folder:{tmp_path}", "train")[0]["image"]
    np.testing.assert_array_equal(image[0], np.repeat([[0], [1], [0x12], [0xFF]], 3, axis=1))


def test_transparent_palette(tmp_path):
    image = Image.fromarray(colours(6, 6)).quantize(8)
    image.save(tmp_path / "0.png", transparency=bytes([0, 128, 255]))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(open_source(f"folder:{tmp_path}", "train")[0]["image"], expected)


@pytest.mark.parametrize(("min_side", "shape"), [(None, (64, 96)), (33, (64, 96)), (32, (32, 48)), (9, (16, 24))])
def test_min_side_decodes_large_jpegs_smaller(tmp_path, min_side, shape):
    ramp = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (64, 96, 3))
    (tmp_path / "0.jpg").write_bytes(encoded(np.ascontiguousarray(ramp), "JPEG"))
    image = open_source(f"folder:{tmp_path}", "train", min_side=min_side)[0]["image"]
    assert image.shape == (*shape, 3)
    np.testing.assert_allclose(image[0, :, 0], np.linspace(0, 255, shape[1]), atol=8)


def test_fingerprint_follows_the_content_and_not_the_place(classes, tmp_path):
    path, _ = classes
    before = open_source(f"folder:{path}", "train").fingerprint
    assert before == open_source(f"folder:{path}", "train").fingerprint
    path.rename(tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved")
    assert open_source(f"folder:{moved}", "train").fingerprint == before
    (moved / "dog" / "2.png").write_bytes(encoded(colours(3, 3)))
    changed = open_source(f"folder:{moved}", "train").fingerprint
    (moved / "dog" / "2.png").rename(moved / "dog" / "3.png")
    assert len({before, changed, open_source(f"folder:{moved}", "train").fingerprint}) == 3


def test_fingerprint_of_arrays(tmp_path):
    images = RNG.integers(0, 256, (40, 3, 3), dtype=np.uint8)
    variants = [
        {"train_images": images},
        {"train_images": images[:39]},
        {"train_images": images + np.uint8(1)},
        {"train_images": images, "train_labels": np.zeros(40, int)},
        {"train_images": images, "train_labels": np.ones(40, int)},
    ]
    specs = [save(tmp_path / f"{i}.npz", **arrays) for i, arrays in enumerate(variants)]
    assert len({open_source(spec, "train").fingerprint for spec in specs}) == len(variants)


@pytest.mark.skipif(not (SHARED / "cifar10_jpeg.npz").exists(), reason="the shared data is not here")
def test_cifar10():
    source = open_source(f"arrays:{SHARED / 'cifar10_jpeg.npz'}", "test")
    assert (len(source), source.num_classes) == (10_000, 10)
    assert source.class_names is not None
    assert source.class_names[0] == "airplane"
    labels = [source[i]["label"] for i in range(0, 10_000, 100)]
    assert set(labels) == set(range(10))
    assert source[0]["image"].shape == (32, 32, 3)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("limit", [None, 7])
def test_a_set_in_memory_is_loaded_as_its_records(tmp_path, labelled, limit):
    images = RNG.integers(0, 256, (20, 4, 6), dtype=np.uint8)
    labels = {"train_labels": np.arange(20, dtype=np.uint8) % 3} if labelled else {}
    source = open_source(save(tmp_path / "x.npz", train_images=images, **labels), "train")
    found = loader.load_all(source, limit=limit)
    records = [source[k * 20 // limit] for k in range(limit)] if limit else list(source)
    assert found.keys() == records[0].keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, np.stack([record[name] for record in records]))
        assert values.dtype == (np.uint8 if name == "image" else np.int32)


def test_a_set_in_memory_is_neither_copied_nor_read_picture_by_picture(tmp_path, monkeypatch):
    read, original = [], Source.__getitem__
    monkeypatch.setattr(Source, "__getitem__", lambda self, index: read.append(index) or original(self, index))
    images = RNG.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    source = open_source(save(tmp_path / "x.npz", train_images=images, train_labels=np.zeros(64, int)), "train")
    assert source.arrays is not None
    held = next(loader.batches(source, batch_size=8, num_steps=2, undrawn=True)).arrays["image"]
    whole = loader.load_all(source)["image"]
    assert len(read) <= 3
    assert held.unsafe_buffer_pointer() == whole.ctypes.data == source.arrays["image"].ctypes.data
    np.testing.assert_array_equal(np.asarray(held), images)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3, 4), (70_000, 20)])
@pytest.mark.parametrize("compressed", [True, False])
def test_members_of_any_size_are_read(tmp_path, dtype, shape, compressed):
    values = RNG.integers(0, 100, shape).astype(dtype)
    (np.savez_compressed if compressed else np.savez)(
        tmp_path / "x.npz", train_images=np.zeros((1, 2, 2), np.uint8), other=values, columns=np.asfortranarray(values)
    )
    with zipfile.ZipFile(tmp_path / "x.npz") as stored:
        for name in ("other", "columns"):
            found = array_files._member(stored, stored.getinfo(f"{name}.npy"))
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, values)
