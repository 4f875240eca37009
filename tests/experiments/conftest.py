"""Small data sets for the experiments."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ssljax.models import bert
from ssljax.text import prepare, python_topics, vocabulary


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    """32 x 32 pictures of two kinds that differ in brightness."""
    rng = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 48), ("test", 20)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 120, (count, 32, 32, 3)) + 120 * labels[:, None, None, None]
        content |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    path = tmp_path_factory.mktemp("arrays") / "two.npz"
    np.savez(path, **content)
    return f"arrays:{path}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """JPEGs of many sizes in two classes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 10)):
        for kind in ("cat", "dog"):
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (rng.integers(30, 60), rng.integers(30, 60), 3), np.uint8)
                Image.fromarray(pixels).save(root / split / kind / f"{i}.jpg")
    return f"folder:{root}"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A corpus of forty documents of Python's reference, with a vocabulary of its own."""
    root = tmp_path_factory.mktemp("corpus")
    text = python_topics.as_text(python_topics.python_topics()[-40:])
    (root / "topics.txt").write_text(text)
    words = vocabulary.train_vocabulary(iter(text.splitlines()), 400)
    prepare.prepare([root / "topics.txt"], words, root / "prepared")
    return str(root / "prepared")


@pytest.fixture
def small_berts(monkeypatch):
    """The sizes of the papers' models with one narrow layer each."""
    for name, shape in bert.SIZES.items():
        monkeypatch.setitem(bert.SIZES, name, dataclasses.replace(shape, hidden=16, layers=1, heads=2, intermediate=32))
