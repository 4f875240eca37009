"""What is evaluated on is not what was learned from, and the user is told where that took a decision."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.types import BadInputError
from ssljax.vision import splits
from ssljax.vision.sources import open_source
from ssljax.vision.splits import held_out, open_splits
from tests.vision.picture_files import RNG, colours, encoded, save


def both(data, train="train", test="test"):
    found = open_splits(lambda split: open_source(data, split), train, test)
    assert found.labelled
    return found.train, found.test, found.notes


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(colours(4, 4)))


def contents(source):
    return [(record["image"].tobytes(), record.get("label")) for record in source]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=120))
def test_a_tenth_of_each_class_is_held_out_and_every_class_stays_in_training(labels):
    labels = np.array(labels)
    held = held_out(len(labels), labels)
    for label in np.unique(labels):
        count, own = np.sum(labels == label), held[labels == label].sum()
        assert own == (count // 10 if count >= 10 else min(count // 2, 1))
        assert own < count


def test_classes_without_splits_do_not_serve_both(tmp_path):
    put(tmp_path, *(f"{kind}/{number:02}.png" for kind in ("cat", "dog") for number in range(20)))
    train, test, notes = both(f"folder:{tmp_path}")
    assert (len(train), len(test)) == (36, 4)
    assert not set(contents(train)) & set(contents(test))
    assert sorted(contents(train) + contents(test)) == sorted(contents(open_source(f"folder:{tmp_path}", "any")))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert [record["label"] for record in test] == [0, 0, 1, 1]
    assert "both splits are the same pictures; every tenth picture of each class, 4 of 40, is held out" in notes[0]
    assert contents(pickle.loads(pickle.dumps(test))) == contents(test)
    assert len({train.fingerprint, test.fingerprint, open_source(f"folder:{tmp_path}", "any").fingerprint}) == 3


def test_splits_of_other_channels_or_without_pictures_are_refused(tmp_path):
    images, labels = RNG.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8), np.arange(20) % 2
    cases = ((images[..., :1], "has 3 channels and .* 1;"), (images[:0], r"\(test\) has no pictures"))
    for asked, wanted in cases:
        both_splits = {"train_images": images, "train_labels": labels}
        np.savez(tmp_path / "a.npz", test_images=asked, test_labels=labels[: len(asked)], **both_splits)
        with pytest.raises(BadInputError, match=wanted):
            both(f"arrays:{tmp_path}/a.npz")


@pytest.mark.parametrize("with_test", [True, False])
def test_arrays_whose_splits_are_equal_or_missing(tmp_path, with_test):
    images, labels = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8), np.arange(30) % 2
    again = {"test_images": images, "test_labels": labels} if with_test else {}
    train, test, notes = both(save(tmp_path / "x.npz", train_images=images, train_labels=labels, **again))
    assert (len(train), len(test)) == (28, 2)
    assert ("the same pictures" if with_test else "there is no split 'test'") in notes[0]
    for source in (train, test):
        assert source.arrays is not None
        np.testing.assert_array_equal(source.arrays["image"], [record["image"] for record in source])
        np.testing.assert_array_equal(source.arrays["label"], [record["label"] for record in source])


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_split_stands_in_for_the_test_split(tmp_path, name):
    put(tmp_path, "train/cat/a.png", "train/cat/b.png", "train/dog/d.png", f"{name}/cat/c.png")
    train, test, notes = both(f"folder:{tmp_path}")
    assert (len(train), len(test)) == (3, 1)
    assert notes == [f"{train.name}: there is no split 'test'; '{name}' is evaluated on."]


def test_single_pictures_in_both_splits_are_counted(tmp_path, monkeypatch):
    put(tmp_path, *(f"train/cat/{number}.png" for number in range(6)), "train/dog/0.png")
    put(tmp_path, "test/cat/x.png", "test/cat/y.png")
    assert both(f"folder:{tmp_path}")[2] == []
    (tmp_path / "test/cat/z.png").write_bytes((tmp_path / "train/cat/3.png").read_bytes())
    assert "1 of the 3 pictures of" in both(f"folder:{tmp_path}")[2][0]
    monkeypatch.setattr(splits, "MOST_HASHED", 100)  # a set too large to be read for it
    assert both(f"folder:{tmp_path}")[2] == []


def test_a_missing_training_split_is_refused(tmp_path):
    put(tmp_path, "test/cat/a.png")
    with pytest.raises(BadInputError, match="has no split 'train'; there are: test"):
        both(f"folder:{tmp_path}")
    with pytest.raises(BadInputError, match="there is no such folder"):
        both(f"folder:{tmp_path}/none")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([f"{n}.png" for n in range(12)], "there are no labels"),
        ([f"2019/06/{n}.png" for n in range(12)], "there is only one class, '2019'"),
        ([f"{n}/a.png" for n in range(12)], "each of the 12 pictures has a class of its own"),
    ],
)
def test_without_classes_to_tell_apart_everything_is_trained_on(tmp_path, names, why):
    put(tmp_path, *names)
    found = open_splits(lambda split: open_source(f"folder:{tmp_path}", split), "train", "test")
    assert not found.labelled
    assert found.test is found.train
    assert len(found.train) == 12
    assert f"{why}; all 12 pictures are trained on" in found.notes[-1]


def test_a_test_split_without_labels_is_not_evaluated_on(tmp_path):
    images = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8)
    data = save(tmp_path / "x.npz", train_images=images, train_labels=np.arange(30) % 2, test_images=images[:3])
    train, test, notes = both(data)
    assert (len(train), len(test)) == (28, 2)
    assert "has no labels; every tenth picture of each class, 2 of 30, is held out" in notes[-1]
