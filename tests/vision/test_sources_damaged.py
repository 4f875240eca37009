"""Sources of damaged, missing and unusable files."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from ssljax.data.records import check_enough, require_labels
from ssljax.types import BadInputError
from ssljax.vision.sources import open_source
from tests.vision.picture_files import colours, encoded, save


@pytest.fixture
def damaged(classes):
    """A cut-off picture, one that is no picture at all and an empty file among the readable ones."""
    path, _ = classes
    whole = encoded(colours(64, 64), "JPEG")
    (path / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (path / "dog" / "0.png").write_bytes(b"this is not a picture")
    (path / "dog" / "2.png").write_bytes(b"")
    return path


def test_an_unreadable_picture_is_named(damaged):
    source = open_source(f"folder:{damaged}", "train")
    for index, name in [(1, "cat/1.png"), (3, "dog/0.png"), (5, "dog/2.png")]:
        with pytest.raises(BadInputError, match=rf"{name}: .*; fix it or pass --skip-bad\.$") as error:
            source[index]
        assert "0x" not in str(error.value)


def test_unreadable_pictures_are_skipped_and_counted(damaged):
    whole, source = (open_source(f"folder:{damaged}", "train", skip_bad=skip) for skip in (False, True))
    records = list(source)
    for index, instead in enumerate([0, 2, 2, 4, 4, 0]):
        np.testing.assert_array_equal(records[index]["image"], whole[instead]["image"])
        assert records[index]["label"] == whole[instead]["label"]
    assert sorted(Path(name).relative_to(damaged).as_posix() for name in source.bad) == [
        "cat/1.png",
        "dog/0.png",
        "dog/2.png",
    ]
    assert set(records[1]["skipped"]) == {str(damaged / "cat/1.png")}


def test_nothing_readable(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no")
    with pytest.raises(BadInputError, match="none of the 1 pictures can be read"):
        open_source(f"folder:{tmp_path}", "train", skip_bad=True)[0]


def test_damaged_bytes_in_arrays_are_named_by_number(tmp_path):
    files = [encoded(colours(5, 5)), b"rubbish"]
    spec = save(
        tmp_path / "x.npz",
        train_jpeg=np.frombuffer(b"".join(files), np.uint8),
        train_offsets=np.cumsum([0, *map(len, files)]),
    )
    with pytest.raises(BadInputError, match="picture 1: not a picture"):
        open_source(spec, "train")[1]


@pytest.mark.parametrize("spec", ["cifar10", "http://x", "folder:", "", "torch:cifar10"])
def test_unknown_kind(spec):
    with pytest.raises(BadInputError, match=r"is not a kind of data.*tfds:NAME, folder:PATH"):
        open_source(spec, "train")


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for spec, message in [
        (f"folder:{tmp_path}/nowhere", "there is no such folder"),
        (f"folder:{tmp_path}/empty", "has no pictures"),
        (f"arrays:{tmp_path}/nowhere.npz", "there is no such file"),
        ("embedded:mnist", "use embedded:fashion_mnist"),
    ]:
        with pytest.raises(BadInputError, match=message):
            open_source(spec, "train")
    with pytest.raises(BadInputError, match="no split 'valid'; there are: test, train"):
        open_source("embedded:fashion_mnist", "valid")


IMAGES = np.zeros((3, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, "holds x and must hold SPLIT_images"),
        ({"test_images": IMAGES, "val_jpeg": IMAGES}, "no split 'train'; there are: test, val"),
        (
            {"train_images": IMAGES.astype(np.float32)},
            r"is float32 \[3, 2, 2\] and must be uint8",
        ),
        ({"train_images": IMAGES[0]}, "must be uint8"),
        ({"train_images": np.zeros((3, 2, 2, 17), np.uint8)}, "with C 1 to 16"),
        ({"train_images": np.zeros((3, 1, 8, 8), np.uint8)}, r"looks like \[N, C, H, W\]; give \[N, H, W, C\]"),
        ({"train_images": np.zeros((3, 2, 2, 0), np.uint8)}, "with C 1 to 16"),
        ({"train_images": np.array([None])}, "without pickles"),
        ({"train_images": IMAGES, "train_labels": np.zeros(2, int)}, r"must be int \[3\]"),
        ({"train_images": IMAGES, "train_labels": np.zeros(3)}, r"float64 \[3\] and must be int"),
        ({"train_images": IMAGES, "train_labels": np.array([0, 1, -1])}, "1 of 3 labels are -1"),
        ({"train_images": IMAGES, "train_labels": np.array([0, 1, -2])}, "lie in -2 to 1; give numbers of 0 and above"),
        (
            {"train_images": IMAGES, "train_labels": np.array([0, -1, -1]), "class_names": np.array(["a"])},
            "2 of 3 labels are -1, which stands for none",
        ),
        (
            {
                "train_images": IMAGES,
                "train_labels": np.array([0, 1, 2]),
                "class_names": np.array(["a", "b"]),
            },
            "must lie in 0 to 1",
        ),
        ({"train_jpeg": np.zeros(9, np.uint8)}, "train_offsets is"),
        ({"train_jpeg": np.zeros(9, np.int8), "train_offsets": np.array([0, 9])}, "train_jpeg is int8"),
        (
            {"train_jpeg": np.zeros(9, np.uint8), "train_offsets": np.array([0, 10])},
            "must rise within 0 to 9",
        ),
        ({"train_jpeg": np.zeros(9, np.uint8), "train_offsets": np.array([0, 5, 4])}, "must rise within"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, arrays, message):
    with pytest.raises(BadInputError, match=message):
        open_source(save(tmp_path / "x.npz", **arrays), "train")


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_that_is_no_npz(tmp_path, content):
    if content is None:
        np.save(tmp_path / "x.npy", IMAGES)
        content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(BadInputError, match=r"is not an \.npz file"):
        open_source(f"arrays:{tmp_path}/x.npz", "train")


def test_a_cut_off_npz(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", train_images=colours(20, 20))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-40])
    with pytest.raises(BadInputError, match=r"is not an \.npz file"):
        open_source(f"arrays:{tmp_path}/x.npz", "train")


def test_check_enough_and_require_labels(tmp_path, classes):
    source = open_source(f"folder:{classes[0]}", "train")
    check_enough(source, 6)
    require_labels(source)
    with pytest.raises(BadInputError, match="has 6 examples, fewer than batch_size=7"):
        check_enough(source, 7)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(encoded(colours(4, 4)))
    single = open_source(f"folder:{tmp_path}/flat", "train")
    with pytest.raises(BadInputError, match="has 1 example, fewer than batch_size=2"):
        check_enough(single, 2)
    with pytest.raises(BadInputError, match="has no labels"):
        require_labels(single)


def test_a_source_survives_pickling(damaged):
    source = open_source(f"folder:{damaged}", "train", skip_bad=True)
    copy = pickle.loads(pickle.dumps(source))
    assert (len(copy), copy.fingerprint, copy.class_names) == (6, source.fingerprint, source.class_names)
    np.testing.assert_array_equal(copy[1]["image"], source[1]["image"])
    assert len(copy.bad) == 1
