"""Sources of pictures of any number of channels, and those read as grey."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ssljax.data.loader import batches, load_all
from ssljax.types import BadInputError
from ssljax.vision import grey, packed
from ssljax.vision.pictures import resize_center
from ssljax.vision.sources import open_source
from tests.vision.picture_files import RNG, colours, encoded, save


def in_grey(image):
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def _images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13, 16])
def test_arrays_of_any_number_of_channels(tmp_path, channels):
    images = _images(12, 4, 6, channels)
    source = open_source(save(tmp_path / "x.npz", train_images=images), "train")
    for image, record in zip(images, source, strict=True):
        np.testing.assert_array_equal(record["image"], image)
    np.testing.assert_array_equal(load_all(source)["image"], images)
    assert next(batches(source, batch_size=4, num_steps=1))["image"].shape == (4, 4, 6, channels)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_they_are_packed(tmp_path, channels):
    images = _images(5, 9, 12, channels)
    spec = save(tmp_path / "x.npz", train_images=images, train_labels=np.array([5, 5, 7, 7, 5]))
    source, square = open_source(spec, "train"), resize_center(6, 6)
    packed.pack(source, square, str(tmp_path / "out"), "train")
    again = open_source(f"packed:{tmp_path}/out", "train")
    assert again.class_names == ("5", "7")
    for i in range(5):
        wanted = square(source[i], RNG)
        np.testing.assert_array_equal(again[i]["image"], wanted["image"])
        assert again[i]["label"] == wanted["label"] == (0, 0, 1, 1, 0)[i]


@pytest.fixture
def sets(tmp_path):
    """The same pictures as every kind of source: `{kind: spec}`, with the pictures."""
    images, labels = colours(8, 6, 10), np.array([3, 9] * 4)
    files = [encoded(image) for image in images]
    for i, file in enumerate(files):
        path = tmp_path / "folder" / str(labels[i]) / f"{i // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    pixels = save(tmp_path / "pixels.npz", train_images=images, train_labels=labels)
    jpeg = {"train_jpeg": np.frombuffer(b"".join(files), np.uint8), "train_offsets": np.cumsum([0, *map(len, files)])}
    specs = {"pixels": pixels, "jpeg": save(tmp_path / "jpeg.npz", **jpeg, train_labels=labels)}
    packed.pack(open_source(pixels, "train"), _unchanged, str(tmp_path / "packed"), "train")
    specs |= {"packed": f"packed:{tmp_path}/packed", "folder": f"folder:{tmp_path}/folder"}
    return specs, images


def _unchanged(record, rng):
    return record


@pytest.mark.parametrize("kind", ["pixels", "jpeg", "packed", "folder"])
def test_every_kind_is_read_as_grey(sets, kind):
    specs, images = sets
    images = np.concatenate([images[::2], images[1::2]]) if kind == "folder" else images  # class by class
    source, colour = open_source(specs[kind], "train", channels=1), open_source(specs[kind], "train")
    wanted = np.stack([in_grey(image) for image in images])
    labels = [record["label"] for record in colour]
    part = source.part(np.arange(len(source)), "all")
    for read in (source, pickle.loads(pickle.dumps(source)), part, pickle.loads(pickle.dumps(part))):
        assert (len(read), read.class_names) == (8, ("3", "9"))
        np.testing.assert_array_equal(np.stack([record["image"] for record in read]), wanted)
        assert [record["label"] for record in read] == labels
        np.testing.assert_array_equal(load_all(read)["image"], wanted)
    matched = source.with_classes_of(_Named("0", "3", "9"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(matched))[3]["image"], wanted[3])
    assert [record["label"] for record in matched] == [label + 1 for label in labels]
    assert source.fingerprint != colour.fingerprint
    np.testing.assert_array_equal(np.stack([record["image"] for record in colour]), images)


class _Named:
    def __init__(self, *names):
        self.class_names, self.name = names, "other"


def test_what_is_grey_stays_grey(tmp_path):
    images = _images(4, 5, 5)
    spec = save(tmp_path / "x.npz", train_images=images)
    source = open_source(spec, "train", channels=1)
    np.testing.assert_array_equal(load_all(source)["image"][..., 0], images)
    assert source.fingerprint == open_source(spec, "train").fingerprint
    assert open_source("embedded:fashion_mnist", "test", channels=1)[0]["image"].shape == (28, 28, 1)


def test_a_large_set_is_converted_in_pieces(tmp_path, monkeypatch):
    images = colours(50, 3, 4)
    monkeypatch.setattr(grey, "PIECE", 100)
    source = open_source(save(tmp_path / "x.npz", train_images=images), "train", channels=1)
    np.testing.assert_array_equal(load_all(source)["image"], [in_grey(image) for image in images])


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_other_channels_make_no_grey(tmp_path, channels):
    spec = save(tmp_path / "x.npz", train_images=_images(3, 4, 4, channels))
    with pytest.raises(BadInputError, match=f"^channels=1: .*x.npz .train. has pictures of {channels} channels"):
        open_source(spec, "train", channels=1)


def test_channels_are_one_or_three():
    with pytest.raises(BadInputError, match="channels=4: give 1 for grey, or 3"):
        open_source("embedded:fashion_mnist", "train", channels=4)  # type: ignore[arg-type]
