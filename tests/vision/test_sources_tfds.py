"""A small set that the test prepares, then read without TensorFlow and without the class that made it."""

import io
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ssljax.types import BadInputError
from ssljax.vision.sources import open_source

SIZES = {"train": 6, "test": 4}


def pixels(split, i, channels):
    shape = (8, 10) if channels == 1 else (8, 10, channels)
    return np.random.default_rng([len(split), i]).integers(0, 256, shape, dtype=np.uint8)


def examples(split, channels):
    for i in range(SIZES[split]):
        stream = io.BytesIO()
        Image.fromarray(pixels(split, i, channels)).save(stream, "PNG")
        yield i, {"image": io.BytesIO(stream.getvalue()), "label": i % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))
    for channels, name in [(3, "TinyColour"), (1, "TinyGrey")]:

        def info(self, channels=channels):
            image = tfds.features.Image(shape=(None, None, channels), encoding_format="png")
            label = tfds.features.ClassLabel(names=["even", "odd"])
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def splits(self, download_manager, channels=channels):
            return {split: examples(split, channels) for split in SIZES}

        body = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "_split_generators": splits}
        # url_infos: tfds would look for its file of checksums with a package that is not installed
        body |= {"_generate_examples": examples, "__module__": __name__, "url_infos": None}
        bases, unlisted = (tfds.core.GeneratorBasedBuilder,), {"skip_registration": True}
        builder = types.new_class(name, bases, unlisted, lambda namespace, body=body: namespace.update(body))
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize(("name", "channels"), [("tiny_colour", 3), ("tiny_grey", 1)])
def test_the_pictures_come_back(data_dir, name, channels):
    for split, size in SIZES.items():
        source = open_source(f"tfds:{name}", split, data_dir=data_dir)
        assert (len(source), source.class_names) == (size, ("even", "odd"))
        found = {record["image"].tobytes(): record["label"] for record in source}
        wanted = {pixels(split, i, channels).tobytes(): i % 2 for i in range(size)}
        assert found == wanted
        assert source[0]["image"].shape == (8, 10, channels)
    assert "tensorflow" not in sys.modules


def test_slices_fingerprints_and_pickling(data_dir):
    whole, half = (open_source("tfds:tiny_colour", s, data_dir=data_dir) for s in ("train", "train[:50%]"))
    assert len(half) == 3
    assert half.fingerprint != whole.fingerprint
    copy = pickle.loads(pickle.dumps(half))
    assert copy.fingerprint == half.fingerprint
    np.testing.assert_array_equal(copy[2]["image"], whole[2]["image"])


@pytest.mark.parametrize("name", ["no_such_set", "cifar10"])
def test_a_set_that_is_not_prepared_names_the_command(data_dir, name):
    command = f"run: tfds build {name} --file_format=array_record --data_dir={data_dir}$"
    with pytest.raises(BadInputError, match=command):
        open_source(f"tfds:{name}", "train", data_dir=data_dir)


def test_a_missing_split(data_dir):
    with pytest.raises(BadInputError, match="tfds:tiny_colour has no split 'valid'; there are: test, train"):
        open_source("tfds:tiny_colour", "valid", data_dir=data_dir)
