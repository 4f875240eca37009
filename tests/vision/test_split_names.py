"""The splits that a data set has."""

import numpy as np
import pytest

from ssljax.types import BadInputError
from ssljax.vision import packed
from ssljax.vision.sources import open_source, split_names
from tests.vision.picture_files import colours, encoded, save


def test_of_arrays(tmp_path):
    images, names = colours(2, 4, 4), ["unlabelled", "test", "extra", "validation", "train", "val"]
    jpeg = {"late_jpeg": np.zeros(4, np.uint8), "late_offsets": np.array([0, 4])}
    arrays = {f"{name}_images": images for name in names} | {f"{name}_labels": np.zeros(2, int) for name in names}
    spec = save(tmp_path / "x.npz", **arrays, **jpeg, class_names=np.array(["a"]))
    found = split_names(spec)
    assert found == ("train", "val", "validation", "test", "extra", "late", "unlabelled")
    assert all(len(open_source(spec, name)) for name in found)


def test_of_packed_pictures(tmp_path):
    spec = save(tmp_path / "x.npz", train_images=colours(2, 4, 4))
    for split in ("test", "train"):
        packed.pack(open_source(spec, "train"), _unchanged, str(tmp_path / "out"), split)
    (tmp_path / "out" / "val.partial").mkdir()
    assert split_names(f"packed:{tmp_path}/out") == ("train", "test")


def _unchanged(record, rng):
    return record


def test_of_a_folder(tmp_path):
    for place in ("test/cat", "train/cat", "valid/cat", "others/cat"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(encoded(colours(4, 4)))
    assert split_names(f"folder:{tmp_path}") == ("train", "valid", "test")
    assert split_names(f"folder:{tmp_path}/train") == ()


def test_of_the_embedded_set():
    assert split_names("embedded:fashion_mnist") == ("train", "test")


def test_what_does_not_exist_is_refused_as_when_it_is_opened(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"no")
    for spec in (
        "cifar10",
        "embedded:mnist",
        f"folder:{tmp_path}/none",
        f"arrays:{tmp_path}/none.npz",
        f"arrays:{tmp_path}/bad.npz",
        save(tmp_path / "x.npz", x=np.zeros(3)),
        f"packed:{tmp_path}/none",
        f"packed:{tmp_path}/empty",
        "tfds:no_such_set",
    ):
        with pytest.raises(BadInputError) as opened:
            open_source(spec, "train")
        with pytest.raises(BadInputError) as listed:
            split_names(spec)
        assert str(listed.value) == str(opened.value)
