"""Labels that are no 0..n-1: the classes are those that occur, and -1 in all of a split stands for none."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.data.loader import load_all
from ssljax.types import BadInputError
from ssljax.vision.classes import classes_of
from ssljax.vision.sources import open_source
from tests.vision.picture_files import colours, encoded, save

LABELS = np.array([300_005, 5, 70, 5, 300_005])


def _file(path, kind="pixels", **splits):
    arrays = {}
    for split, labels in splits.items():
        if kind == "pixels":
            arrays[f"{split}_images"] = colours(len(labels), 4, 4)
        else:
            files = [encoded(colours(4, 4)) for _ in labels]
            arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
            arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = np.asarray(labels)
    return save(path / "x.npz", **arrays)


def labels_of(source):
    """By each way there is of reading them, which agree."""
    found = [record["label"] for record in source]
    np.testing.assert_array_equal(source.labels, found)
    np.testing.assert_array_equal(load_all(source)["label"], found)
    if source.arrays is not None:
        np.testing.assert_array_equal(source.arrays["label"], found)
    return found


@pytest.mark.parametrize("kind", ["pixels", "jpeg"])
def test_the_classes_are_the_labels_that_occur(tmp_path, kind):
    source = open_source(_file(tmp_path, kind, train=LABELS), "train")
    assert (source.num_classes, source.class_names) == (3, ("5", "70", "300005"))
    assert labels_of(source) == [2, 0, 1, 0, 2]
    again = pickle.loads(pickle.dumps(source))
    assert (again.class_names, labels_of(again), again.fingerprint) == (
        source.class_names,
        [2, 0, 1, 0, 2],
        source.fingerprint,
    )
    part = source.part(np.array([2, 0]), "part")
    assert (labels_of(part), part.class_names) == ([1, 2], source.class_names)


@pytest.mark.parametrize("kind", ["pixels", "jpeg"])
def test_splits_are_matched_by_name(tmp_path, kind):
    spec = _file(tmp_path, kind, train=LABELS, test=np.array([300_005, 70], np.uint32), val=np.array([70, 6]))
    train, test, val = (open_source(spec, split) for split in ("train", "test", "val"))
    assert (test.class_names, labels_of(test)) == (("70", "300005"), [1, 0])
    matched = test.with_classes_of(train)
    for source in (matched, pickle.loads(pickle.dumps(matched))):
        assert (source.class_names, labels_of(source)) == (train.class_names, [2, 1])
    with pytest.raises(BadInputError, match=r"has classes that .* has not: 6; rename or remove them"):
        val.with_classes_of(train)


def test_named_classes_keep_their_numbers(tmp_path):
    spec = save(
        tmp_path / "x.npz",
        train_images=colours(2, 4, 4),
        train_labels=np.array([3, 1]),
        class_names=np.array(list("abcd")),
    )
    source = open_source(spec, "train")
    assert (source.class_names, labels_of(source)) == (("a", "b", "c", "d"), [3, 1])


@pytest.mark.parametrize("names", [{}, {"class_names": np.array(["a", "b"])}])
def test_a_split_of_minus_ones_is_unlabelled(tmp_path, names):
    spec = save(tmp_path / "x.npz", test_images=colours(3, 4, 4), test_labels=np.full(3, -1, np.int8), **names)
    source = open_source(spec, "test")
    assert (source.class_names, source.num_classes, source.labels) == (None, None, None)
    assert set(source[0]) == set(load_all(source)) == {"image"}
    assert any("every label is -1, which stands for none" in note for note in source.notes)
    assert pickle.loads(pickle.dumps(source)).class_names is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=30), st.sampled_from([np.int64, np.uint64]))
def test_each_label_is_the_place_of_its_name(numbers, dtype):
    found = classes_of("set", np.array(numbers, dtype), None)
    assert found.labels is not None
    assert found.class_names is not None
    assert [int(found.class_names[label]) for label in found.labels] == numbers
    assert list(map(int, found.class_names)) == sorted(set(numbers))
    assert {int(name): place for place, name in enumerate(found.class_names)} == found.positions


def test_an_empty_split_has_no_classes():
    labels, names, *_ = classes_of("set", np.zeros(0, int), None)
    assert labels is not None
    assert (labels.shape, names) == ((0,), ())
