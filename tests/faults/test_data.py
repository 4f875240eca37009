"""Faults of data in the middle of an epoch: named, counted where they may be skipped, and nothing else moves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssljax.data.loader import batches, load_all
from ssljax.data.order import batch_indices
from ssljax.types import BadInputError
from ssljax.vision.pictures import random_crops
from ssljax.vision.sources import open_source
from tests.vision import test_sources_tfds

ROOT = Path(__file__).parents[2]
COUNT, BAD = 24, 13
RUN = {"batch_size": 4, "seed": 5, "num_steps": COUNT // 4}
PATHS = {
    "resident": {},
    "streamed": {"resident_bytes": 0},
    "workers": {"resident_bytes": 0, "workers": 2},
}
data_dir = test_sources_tfds.data_dir  # a prepared set, as a fixture


def image(i):
    return np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """JPEGs, of which number `BAD` is cut off in the middle."""
    for i in range(COUNT):
        Image.fromarray(image(i)).save(tmp_path / f"{i:02}.jpg")
    path = tmp_path / f"{BAD}.jpg"
    (tmp_path / "whole").write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-400])
    return tmp_path


def run(source, **options):
    return [np.asarray(batch["image"]) for batch in batches(source, **RUN, **options)]


@pytest.mark.parametrize("path", PATHS)
def test_a_truncated_picture_is_named_or_skipped_and_counted(folder, path):
    with pytest.raises(
        BadInputError, match=rf"{BAD}\.jpg: a damaged picture \(.*truncated.*\); fix it or pass --skip-bad"
    ):
        run(open_source(f"folder:{folder}", "train"), **PATHS[path])
    tolerant = open_source(f"folder:{folder}", "train", skip_bad=True)
    found = np.concatenate(run(tolerant, **PATHS[path]))
    assert list(tolerant.bad) == [str(folder / f"{BAD}.jpg")]
    (folder / "whole").rename(folder / f"{BAD}.jpg")
    whole = open_source(f"folder:{folder}", "train")
    wanted = np.concatenate(run(whole, **PATHS["streamed"]))
    order = np.concatenate([batch_indices(5, step, size=COUNT, batch_size=4) for step in range(COUNT // 4)])
    assert np.flatnonzero((found != wanted).any((1, 2, 3))).tolist() == np.flatnonzero(order == BAD).tolist()
    np.testing.assert_array_equal(found[order == BAD][0], whole[BAD + 1]["image"])


def test_crops_of_the_other_pictures_stay_as_they_are(folder):
    """The randomness belongs to the place in the epoch, and what was skipped is counted after a transform too."""
    tolerant = open_source(f"folder:{folder}", "train", skip_bad=True)
    forgetful = {"transform": lambda record, rng: {"image": random_crops(4)(record, rng)["image"]}}
    found = np.concatenate(run(tolerant, **forgetful))
    (folder / "whole").rename(folder / f"{BAD}.jpg")
    wanted = np.concatenate(run(open_source(f"folder:{folder}", "train"), **forgetful))
    assert (found != wanted).any((1, 2, 3, 4)).sum() == 1
    assert len(tolerant.bad) == 1


@pytest.mark.parametrize("damage", ["a flipped byte", "a cut"])
def test_a_damaged_array_record_is_named_and_skipped(data_dir, damage):
    (file,) = Path(data_dir).glob("tiny_colour/*/*train*array_record*")
    content = file.read_bytes()
    damaged = bytearray(content)
    # the file's first chunks of 64 kB hold a record each
    places = [place for place in range(484, 1500) if content[place]]
    damaged[places[len(places) // 2]] ^= 1
    try:
        file.write_bytes(bytes(damaged) if damage == "a flipped byte" else content[: len(content) // 2])
        tolerant = open_source("tfds:tiny_colour", "train", data_dir=data_dir, skip_bad=True)
        with pytest.raises(BadInputError, match=r"tiny_colour \(train\): picture \d: a damaged record \(.*\)"):
            list(batches(open_source("tfds:tiny_colour", "train", data_dir=data_dir), batch_size=3, num_steps=2))
        if damage == "a flipped byte":
            assert len(list(batches(tolerant, batch_size=3, num_steps=2))) == 2
            assert len(tolerant.bad) == 1
        else:
            with pytest.raises(BadInputError, match="none of the 6 pictures can be read"):
                list(batches(tolerant, batch_size=3, num_steps=2))
    finally:
        file.write_bytes(content)


class Own:
    """A user's own source, whose record `BAD` is at fault."""

    def __init__(self, fault=None, count=COUNT):
        self.fault, self.count = fault, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == BAD and self.fault == "kill" and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        if index == BAD and self.fault == "odd":
            raise OddError("n", "o")
        if index == BAD and isinstance(self.fault, BaseException):
            raise self.fault
        return {"image": np.full((8, 8, 3), index % 256, np.uint8)}


class OddError(Exception):
    """One that cannot be sent between processes."""

    def __init__(self, first, second):
        super().__init__(f"{first}\n{second}")


@pytest.mark.parametrize(
    "fault", [ValueError("no"), OSError(5, "no"), OddError("n", "o"), SystemExit(0), BadInputError("no")]
)
@pytest.mark.parametrize("path", ["resident", "streamed"])
def test_whatever_a_source_raises_is_one_sentence_with_the_index(fault, path):
    with pytest.raises(
        BadInputError, match=rf"^Own: record {BAD} cannot be read \({type(fault).__name__}: .*\); fix it"
    ):
        run(Own(fault), **PATHS[path])
    with pytest.raises(BadInputError, match=rf"^Own: record {BAD} cannot be read"):
        load_all(Own(fault))


@pytest.mark.parametrize(("fault", "said"), [("odd", "OddError: n o"), (SystemExit(0), "SystemExit: 0")])
def test_a_fault_comes_out_of_a_worker_as_the_same_sentence(fault, said):
    with pytest.raises(BadInputError, match=rf"^Own: record {BAD} cannot be read \({said}\); fix it"):
        run(Own(fault), **PATHS["workers"])


def test_the_first_record_too():
    source = [None, *({"image": np.zeros((2, 2, 1), np.uint8)} for _ in range(5))]
    source = type("Torn", (list,), {"__getitem__": lambda self, i: 1 / 0 if i == 0 else list.__getitem__(self, i)})(
        source
    )
    with pytest.raises(BadInputError, match=r"^Torn: record 0 cannot be read \(ZeroDivisionError: division by zero\)"):
        batches(source, batch_size=2, num_steps=1)


def test_a_transform_that_fails_is_named():
    def transform(record, rng):
        return {"image": record["image"].reshape(7, 7)}

    with pytest.raises(BadInputError, match=r"^Own: the transform of record \d+ failed \(ValueError: cannot reshape"):
        run(Own(), transform=transform)


@pytest.mark.filterwarnings("ignore:resource_tracker")
def test_a_killed_worker_ends_the_run_with_a_sentence():
    began = time.monotonic()
    with pytest.raises(BadInputError, match=r"^Own: one of the workers=2 that read it died of SIGKILL for batch \d"):
        run(Own("kill"), **PATHS["workers"])
    assert time.monotonic() - began < 60
    assert multiprocessing.active_children() == []


def test_a_worker_killed_from_outside_ends_the_run_with_a_sentence():
    stream = batches(Own(count=4000), **RUN | {"num_steps": 1000}, **PATHS["workers"])
    np.asarray(next(stream)["image"])
    multiprocessing.active_children()[0].kill()
    with pytest.raises(BadInputError, match="died of SIGKILL"):
        list(stream)
    assert multiprocessing.active_children() == []


def test_a_source_that_cannot_be_sent_to_workers_is_named():
    source = Own(fault=threading.Lock())
    with pytest.raises(BadInputError, match=r"^Own: .*cannot pickle '_thread.lock' object.*give workers=0"):
        run(source, **PATHS["workers"])


def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import multiprocessing, time\n"
        "from ssljax.data.loader import batches\n"
        "from tests.faults.test_data import Own, PATHS\n"
        "if __name__ == '__main__':\n"
        "    stream = batches(Own(count=4000), batch_size=4, num_steps=1000, **PATHS['workers'])\n"
        "    next(stream)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(children) == 2
    until = time.monotonic() + 20
    while (left := [pid for pid in children if running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
