from pathlib import Path

import numpy as np
import pytest

from ssljax.types import BadInputError
from ssljax.vision import fashion_mnist
from ssljax.vision.fashion_mnist import build

WHOLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "fashion_mnist.npz"
has_whole = pytest.mark.skipif(not WHOLE.exists(), reason="the shared data is not here")


@pytest.mark.parametrize(("split", "per_class"), [("train", 1200), ("test", 200)])
def test_shapes_and_classes(split, per_class):
    images, labels = fashion_mnist.load(split)
    assert (images.shape, images.dtype) == ((10 * per_class, 28, 28, 1), np.uint8)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(labels), [per_class] * 10)
    assert len(fashion_mnist.CLASS_NAMES) == 10


def test_bags_are_wider_than_trousers():
    images, labels = fashion_mnist.load("test")
    inked = (images[..., 0] > 0).mean(axis=(1, 2))
    bag, trousers = (inked[labels == fashion_mnist.CLASS_NAMES.index(n)].mean() for n in ("Bag", "Trouser"))
    assert bag > 1.5 * trousers


def test_the_file_is_small_and_licensed():
    assert fashion_mnist.FILE.stat().st_size < 6_000_000
    notice = (fashion_mnist.FILE.parent / "LICENSE").read_text()
    assert "The MIT License (MIT) Copyright © 2017 Zalando SE, https://tech.zalando.com" in notice


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    data = bytearray(fashion_mnist.FILE.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.xz").write_bytes(data)
    monkeypatch.setattr(fashion_mnist, "FILE", tmp_path / "damaged.xz")
    with pytest.raises(BadInputError, match=r"damaged\.xz is not the released file"):
        fashion_mnist.load("test")


def test_other_pixels_are_refused(tmp_path):
    labels = np.arange(12_000, dtype=np.uint8) % 10
    images = np.zeros((12_000, 28, 28), np.uint8)
    np.savez(
        tmp_path / "other.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    with pytest.raises(BadInputError, match="not Fashion-MNIST's pixels"):
        build.main([str(tmp_path / "other.npz")])


@has_whole
def test_the_subset_is_the_first_of_each_class():
    with np.load(WHOLE) as whole:
        for split, per_class in fashion_mnist.PER_CLASS.items():
            images, labels = fashion_mnist.load(split)
            for label in range(10):
                first = whole[f"{split}_images"][whole[f"{split}_labels"] == label][:per_class]
                np.testing.assert_array_equal(images[labels == label, ..., 0], first)


@has_whole
@pytest.mark.slow
def test_rebuilding_gives_the_same_bytes(tmp_path, capsys):
    build.main([str(WHOLE), "--out", str(tmp_path / "rebuilt.xz")])
    assert (tmp_path / "rebuilt.xz").read_bytes() == fashion_mnist.FILE.read_bytes()
    assert "the released file" in capsys.readouterr().out
