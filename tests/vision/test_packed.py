"""Packed pictures: what was written comes back, by every way of reading; what is not whole is refused."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments import pack_images
from ssljax.data.loader import batches, load_all
from ssljax.types import BadInputError
from ssljax.vision import packed
from ssljax.vision.pictures import random_crops, resize_center
from ssljax.vision.sources import open_source

RNG = np.random.default_rng(0)
SIZE = 8


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        pixels = RNG.integers(0, 256, (9 + i, 20 - i, 3), dtype=np.uint8)
        path = tmp_path / "in" / "train" / f"class{i // 5}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "in"


def config(folder, out, **options):
    return pack_images.Config(data=f"folder:{folder}", out=str(out), size=SIZE, **options)


@pytest.fixture
def store(folder, tmp_path):
    pack_images.run(config(folder, tmp_path / "out"))
    return tmp_path / "out"


def test_it_holds_the_resized_squares(folder, store, capsys):
    source, whole = open_source(f"packed:{store}", "train"), open_source(f"folder:{folder}", "train")
    assert (len(source), source.class_names) == (10, ("class0", "class1"))
    square = resize_center(SIZE, SIZE)
    for i in range(10):
        wanted = square(whole[i], RNG)
        np.testing.assert_array_equal(source[i]["image"], wanted["image"])
        assert source[i]["label"] == wanted["label"] == i // 5
    assert (store / "train" / "images").stat().st_size == 10 * SIZE * SIZE * 3
    assert [path.name for path in store.iterdir()] == ["train"]
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint == source.fingerprint != whole.fingerprint
    assert len(pickle.dumps(source)) < 1000  # workers map the file for themselves


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training_reads_it_as_any_set(store, workers):
    source = open_source(f"packed:{store}", "train")
    run = {"batch_size": 4, "num_steps": 3, "transform": random_crops(4), "fields": ("image", "label")}
    found = list(batches(source, workers=workers, **run))
    wanted = list(batches([source[i] for i in range(10)], **run))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])
    assert load_all(source)["image"].shape == (10, SIZE, SIZE, 3)


def test_what_cannot_be_read_is_left_out_or_refused(folder, tmp_path):
    (folder / "train" / "class0" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(BadInputError, match=r"2\.png: not a picture"):
        pack_images.run(config(folder, tmp_path / "out"))
    assert not (tmp_path / "out" / "train").exists()
    with pytest.raises(BadInputError, match="holds no packed pictures"):
        open_source(f"packed:{tmp_path}/out", "train")
    pack_images.run(config(folder, tmp_path / "out", skip_bad=True))
    source = open_source(f"packed:{tmp_path}/out", "train")
    assert [record["label"] for record in source] == [0] * 4 + [1] * 5
    assert json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())["left_out"] == 1


def test_unlabelled_pictures(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=RNG.integers(0, 256, (5, 9, 9), dtype=np.uint8))
    found = packed.pack(open_source(f"arrays:{tmp_path}/x.npz", "train"), resize_center(4, 4), str(tmp_path), "train")
    assert found["shape"] == [5, 4, 4, 1]
    assert set(open_source(f"packed:{tmp_path}", "train")[4]) == {"image"}


def test_a_killed_run_leaves_nothing_that_looks_finished(folder, tmp_path):
    code = (
        "import os\nfrom experiments import pack_images\nfrom ssljax.vision import packed\n"
        "packed._flush = lambda file: os.kill(os.getpid(), 9)\n"
        f"pack_images.run(pack_images.Config(data='folder:{folder}', out='{tmp_path}/out', size={SIZE}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.partial"]
    for split in ("train", "train.partial"):
        with pytest.raises(BadInputError, match=r"holds no packed pictures|damaged or of another kind"):
            open_source(f"packed:{tmp_path}/out", split)
    pack_images.run(config(folder, tmp_path / "out"))
    assert len(open_source(f"packed:{tmp_path}/out", "train")) == 10
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


def test_a_damaged_picture_is_named_and_can_be_skipped(store):
    path = store / "train" / "images"
    stored = bytearray(path.read_bytes())
    stored[3 * SIZE * SIZE * 3 + 5] ^= 1
    path.write_bytes(stored)
    with pytest.raises(
        BadInputError, match=r"picture 3: its bytes have changed since they were packed; fix it or pass --skip-bad"
    ):
        open_source(f"packed:{store}", "train")[3]
    assert "skipped" in open_source(f"packed:{store}", "train", skip_bad=True)[3]


DAMAGES = {
    "manifest.json": (
        b"",
        b"{",
        b"[]",
        b'{"format": "another"}',
        b'{"format": "ssljax packed pictures", "version": 1}',
    ),
    "sums.npy": (b"", b"another"),
    "labels.npy": (b"", b"another"),
    "images": (b"", b"short"),
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in DAMAGES for content in DAMAGES[name]])
def test_damaged_or_foreign_directories_are_refused(store, name, content):
    (store / "train" / name).write_bytes(content)
    with pytest.raises(BadInputError, match=r"is damaged or of another kind \(.*\); pack it again\.$"):
        open_source(f"packed:{store}", "train")
    (store / "train" / name).unlink()
    with pytest.raises(BadInputError, match=r"is damaged or of another kind \(.*\); pack it again\.$"):
        open_source(f"packed:{store}", "train")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"shape": [10, 8, 8]},
        {"shape": [10, 8, 8, -3]},
        {"shape": [9, 8, 8, 3]},
        {"shape": [10, "8", 8, 3]},
        {"shape": None},
        {"class_names": ["one"]},
        {"class_names": None},
        {"checksums": {}},
        {"checksums": {"../secret": ""}},
    ],
)
def test_manifests_that_cannot_be(store, change):
    path = store / "train" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError, match=r"is damaged or of another kind \(.*\); pack it again\.$"):
        open_source(f"packed:{store}", "train")


def test_requests_that_cannot_be_met(folder, store):
    with pytest.raises(BadInputError, match=r"train exists; remove it"):
        pack_images.run(config(folder, store))
    with pytest.raises(BadInputError, match=r"no such directory; make it with python -m experiments\.pack_images"):
        open_source("packed:nowhere", "train")
    with pytest.raises(BadInputError, match=r"has no split 'test'; there are: train"):
        open_source(f"packed:{store}", "test")
    for size, split, message in ((0, "train", "size=0"), (8, "train[:2]", "names no directory")):
        with pytest.raises(BadInputError, match=message):
            pack_images.run(pack_images.Config(data=f"folder:{folder}", out=str(store), size=size, split=split))


def test_the_command_line(folder, tmp_path):
    command = [sys.executable, "-m", "experiments.pack_images", "--data", f"folder:{folder}", "--size", str(SIZE)]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10 pictures [8, 8, 3], 0 skipped" in done.stdout
    again = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
