"""Recipes read without their data, and without touching a device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssljax.optim import Pace
from ssljax.plan import recipes
from ssljax.types import BadInputError

ROOT = Path(__file__).parents[2]


def test_pictures_arrive_as_the_loader_yields_them():
    found = recipes.read("moco_v2_imagenet", ["--batch-size", "512"])
    (stretch,) = found.stretches
    (crops,) = stretch.batch.items()  # two of each picture, made on the host
    assert (crops[0], crops[1].shape, crops[1].dtype) == ("crops_224", (512, 2, 224, 224, 3), np.uint8)
    assert (stretch.label, stretch.batch_size) == ("size 224", 512)
    assert stretch.steps == 200 * (1_281_167 // 512)
    assert found.pace == Pace(200, 1_281_167 // 512)


def test_small_pictures_arrive_whole():
    (stretch,) = recipes.read("demo").stretches
    assert stretch.batch["image"].shape == (128, 28, 28, 1)
    (stretch,) = recipes.read("moco_cifar10", ["--data", "tfds:cifar10"]).stretches
    assert stretch.batch["image"].shape[1:] == (32, 32, 3)


def test_text_comes_in_stretches_of_one_length():
    found = recipes.read("bert_large")
    assert [each.label for each in found.stretches] == ["length 128", "length 512"]
    assert [each.steps for each in found.stretches] == [900_000, 100_000]
    assert [each.batch["tokens"].shape for each in found.stretches] == [(256, 128), (256, 512)]
    assert found.pace == Pace(1_000_000, 1)


def test_overrides_stand_over_options():
    options = ["--batch-sizes", "64", "64"]
    found = recipes.read("bert_large", options, {"batch_sizes": [64, 32], "remat": True})
    assert [each.batch_size for each in found.stretches] == [64, 32]
    assert found.config.remat


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moco_v9", (), "unknown recipe experiments/moco_v9.py; use one of .*moco_v2_imagenet"),
        ("", (), "unknown recipe"),
        ("bench", (), "unknown recipe experiments/bench.py"),
        ("glue", (), "unknown recipe experiments/glue.py"),
        ("../demo", (), "unknown recipe"),
        ("moco_v2_imagenet", ("--data", "folder:pictures"), "give --examples"),
        ("demo", ("--data", "tfds:imagenet2012"), "the pictures' size is not known"),
        ("ten_images", (), "a plan can be made for|not known"),
        ("demo", ("--temperature", "0"), "temperature=0"),
        ("bert_base", ("--lengths", "128"), "lengths"),
    ],
)
def test_what_will_not_do_is_refused_in_one_sentence(name, options, message):
    with pytest.raises(BadInputError, match=message) as refused:
        recipes.read(name, options)
    assert "\n" not in str(refused.value)


def test_the_size_of_an_unknown_set_can_be_given():
    found = recipes.read("moco_v2_imagenet", ["--data", "folder:pictures"], examples=1000)
    assert found.pace.steps_per_epoch == 1000 // 256


@pytest.mark.slow
def test_no_device_is_touched():
    """So that a plan may be made beside a run that holds the machine's TPU."""
    words = (
        "from ssljax.plan import recipes; recipes.read('moco_v2_imagenet'); recipes.read('bert_large_lamb');"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
