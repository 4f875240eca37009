"""A small set that the test prepares, then read without TensorFlow and without the class that made it."""

import io
import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ssljax.data.loader import load_all
from ssljax.data.tfds_sets import read_integers
from ssljax.types import BadInputError
from ssljax.vision import tfds_sets
from ssljax.vision.sources import open_source, split_names

SIZES = {"train": 6, "test": 4}
NUMBERS = {"train": [40, 7, 40, 7, 7, 300_005], "test": [7, 40, 40, 7]}


def pixels(split, i, channels):
    shape = (8, 10) if channels == 1 else (8, 10, channels)
    return np.random.default_rng([len(split), i]).integers(0, 256, shape, dtype=np.uint8)


def examples(split, channels, label):
    for i in range(SIZES[split]):
        stream = io.BytesIO()
        Image.fromarray(pixels(split, i, channels)).save(stream, "PNG")
        image = io.BytesIO(stream.getvalue())
        yield i, {"image": [image] if channels == SEQUENCE else image, "label": label(split, i)}


SEQUENCE = 4  # channels of the set whose feature `image` is a sequence
LABELS = {
    "TinyColour": lambda split, i: i % 2,
    "TinyGrey": lambda split, i: i % 2,
    "TinyNumbers": lambda split, i: NUMBERS[split][i],
    "TinyUnlabelled": lambda split, i: -1 if split == "test" else i % 2,
    "TinyPartly": lambda split, i: -1 if i == 1 else i,
    "TinyFrames": lambda split, i: 0,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))
    for name, label in LABELS.items():
        channels = {"TinyGrey": 1, "TinyFrames": SEQUENCE}.get(name, 3)
        named = tfds.features.ClassLabel(names=["even", "odd"])
        features = {"image": tfds.features.Image(shape=(None, None, channels), encoding_format="png"), "label": named}
        if name in ("TinyNumbers", "TinyPartly"):
            features["label"] = np.int64
        if name == "TinyFrames":
            features["image"] = tfds.features.Sequence(features["image"])

        def info(self, features=features):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def splits(self, download_manager, channels=channels, label=label):
            return {split: examples(split, channels, label) for split in SIZES}

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


def test_split_names(data_dir):
    assert split_names("tfds:tiny_colour", data_dir) == ("train", "test")
    with pytest.raises(BadInputError, match="no_such_set is not prepared"):
        split_names("tfds:no_such_set", data_dir)


@pytest.mark.parametrize("name", ["tiny_colour", "tiny_grey"])
def test_they_are_read_as_grey(data_dir, name):
    source, plain = (open_source(f"tfds:{name}", "train", data_dir=data_dir, channels=c) for c in (1, 3))
    for read in (source, pickle.loads(pickle.dumps(source))):
        for found, record in zip(read, plain, strict=True):
            image = record["image"] if name == "tiny_colour" else np.tile(record["image"], 3)
            np.testing.assert_array_equal(found["image"][..., 0], np.asarray(Image.fromarray(image).convert("L")))
            assert found["label"] == record["label"]


def numbers_by_picture(split, names):
    return {pixels(split, i, 3).tobytes(): names.index(str(number)) for i, number in enumerate(NUMBERS[split])}


def test_integers_are_labels_and_the_classes_those_that_occur(data_dir):
    train, test = (open_source("tfds:tiny_numbers", split, data_dir=data_dir) for split in SIZES)
    assert (train.class_names, test.class_names) == (("7", "40", "300005"), ("7", "40"))
    matched = test.with_classes_of(train)
    for split, source in (("train", train), ("test", test), ("test", matched)):
        for read in (source, pickle.loads(pickle.dumps(source))):
            wanted = numbers_by_picture(split, list(read.class_names or ()))
            assert {record["image"].tobytes(): record["label"] for record in read} == wanted
            np.testing.assert_array_equal(read.labels, [record["label"] for record in read])
    with pytest.raises(BadInputError, match="has not: 300005; rename or remove them"):
        train.with_classes_of(test)


def test_a_worker_does_not_read_the_labels_again(data_dir, monkeypatch):
    stored = pickle.dumps(open_source("tfds:tiny_numbers", "train", data_dir=data_dir))

    def refuse(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(tfds_sets, "read_integers", refuse)
    again = pickle.loads(stored)
    assert again.class_names == ("7", "40", "300005")
    assert len(again.part(np.array([0, 2]), "part")) == 2


@pytest.mark.parametrize("most", [200_000, 3])
def test_a_split_of_minus_ones_is_unlabelled(data_dir, monkeypatch, most):
    monkeypatch.setattr(tfds_sets, "MOST_LABELS", most)
    monkeypatch.setattr(tfds_sets, "SAMPLED", 2)
    train, test = (open_source("tfds:tiny_unlabelled", split, data_dir=data_dir) for split in SIZES)
    assert (train.class_names, train.labels is None) == (("even", "odd"), most == 3)
    assert (test.class_names, test.labels) == (None, None)
    assert "every label is -1, which stands for none" in test.notes[0]
    assert set(test[0]) == set(load_all(test)) == {"image"}


def test_some_labels_of_minus_one_are_refused(data_dir, monkeypatch):
    with pytest.raises(BadInputError, match="1 of 6 labels are -1, which stands for none"):
        open_source("tfds:tiny_partly", "train", data_dir=data_dir)
    monkeypatch.setattr(tfds_sets, "MOST_LABELS", 3)
    source = open_source("tfds:tiny_partly", "train", data_dir=data_dir)
    assert source.class_names is None
    assert "of more than 3 pictures are not read; it is unlabelled" in source.notes[0]


def test_a_label_that_no_sampled_record_has_is_refused_when_it_is_read(data_dir, monkeypatch):
    both = {"spec": "tfds:tiny_unlabelled", "split": "train+test", "data_dir": data_dir}
    with pytest.raises(BadInputError, match="4 of 10 labels are -1"):
        open_source(**both)
    monkeypatch.setattr(tfds_sets, "MOST_BYTES", 1)
    monkeypatch.setattr(tfds_sets, "SAMPLED", 2)
    with pytest.raises(BadInputError, match="picture 7: its label is -1, which is no class of the others; fix it or"):
        open_source(**both)[7]
    assert open_source(**both)[5]["label"] in (0, 1)


def test_a_damaged_record_has_no_label_and_hides_no_others(data_dir, monkeypatch):
    read = read_integers

    def damaged(records, feature, indices, unreadable):
        class Some:
            data_source = None  # which fails for all together

            def __getitem__(self, index):
                return records[index] if index != 2 else {}

        return read(Some(), feature, indices, unreadable)

    monkeypatch.setattr(tfds_sets, "read_integers", damaged)
    source = open_source("tfds:tiny_numbers", "test", data_dir=data_dir)
    assert (source.class_names, source.labels) == (("7", "40"), None)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "tiny_frames",
            "train",
            "its feature 'image' is a sequence of images, not one image a record; use another set",
        ),
        ("tiny_colour", "train[:0%]", r"split 'train\[:0%\]' holds no records; give a larger slice"),
        ("tiny_colour", "train[4:2]", "holds no records; give a larger slice"),
        (
            "tiny_colour",
            "train[:99]",
            r"is no valid slice \(Requested slice .* incompatible with 6 examples\); correct",
        ),
        ("tiny_colour", "train[", "is no valid slice"),
        ("tiny_colour", "vali[:50%]", r"has no split 'vali\[:50%\]'; there are: test, train"),
    ],
)
def test_what_cannot_be_read_is_named(data_dir, name, split, message):
    with pytest.raises(BadInputError, match=message):
        open_source(f"tfds:{name}", split, data_dir=data_dir)
