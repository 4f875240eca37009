"""Folders as people have them: nested, linked, with other files in them, and with splits that differ."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image, features

from ssljax.types import BadInputError
from ssljax.vision import folders
from ssljax.vision.sources import open_source, split_names
from tests.vision.picture_files import colours, encoded, save


def put(root, *names):
    """PNGs of these names, whatever their endings."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(colours(4, 4)))


def labels_of(source):
    return [source.class_names[record["label"]] for record in source]


def test_pictures_at_any_depth_and_through_links_belong_to_their_class(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    put(data, "cat/a.png", "cat/2021/05/b.png", "dog/a.png")
    put(elsewhere, "more/c.png")
    (data / "dog" / "linked").symlink_to(elsewhere)
    (data / "owl").symlink_to(elsewhere / "more")
    (data / "cat" / "loop").symlink_to(data / "cat")
    (data / "cat" / "2021" / "up").symlink_to(data)
    (data / "cat" / "gone").symlink_to(tmp_path / "nowhere")
    assert labels_of(open_source(f"folder:{data}", "train")) == ["cat", "cat", "dog", "dog", "owl"]


def test_every_common_format_is_read(tmp_path):
    formats = {"jfif": "JPEG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "TIFF": "TIFF", "gif": "GIF", "ppm": "PPM"}
    formats = {ending: name for ending, name in formats.items() if name != "WEBP" or features.check("webp")}
    for ending, name in formats.items():
        Image.new("RGB", (4, 4), (200, 10, 10)).save(tmp_path / f"a.{ending}", name)
    source = open_source(f"folder:{tmp_path}", "train")
    assert len(source) == len(formats)
    for record in source:
        np.testing.assert_allclose(record["image"].reshape(-1, 3), [[200, 10, 10]] * 16, atol=6)


def test_what_is_no_picture_is_counted_and_hidden_folders_hold_none(tmp_path):
    put(tmp_path, "cat/a.png", "cat/.ipynb_checkpoints/a-checkpoint.png", "cat/.a.png", "dog/a.png")
    for name in ("cat/notes.txt", "cat/more.TXT", "dog/labels.csv", "README"):
        (tmp_path / name).write_text("")
    source = open_source(f"folder:{tmp_path}", "train")
    assert labels_of(source) == ["cat", "dog"]
    (note,) = source.notes
    assert "6 entries are not read as pictures" in note
    for kind in ("2 .txt", "1 .csv", "1 without an ending", "2 hidden"):
        assert kind in note


def test_links_to_nothing_and_pipes_are_counted(tmp_path):
    put(tmp_path, "cat/a.png", "dog/a.png")
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "owl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    source = open_source(f"folder:{tmp_path}", "train")
    assert labels_of(source) == ["cat", "dog"]
    (note,) = source.notes
    assert "3 entries are not read as pictures (2 links to nothing, 1 that are no regular files)" in note


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("training", "testing"), ("TRAINING", "Test")])
def test_a_split_is_found_whatever_its_case(train, test, tmp_path):
    put(tmp_path, f"{train}/cat/a.png", f"{train}/dog/b.png", f"{test}/dog/c.png")
    assert labels_of(open_source(f"folder:{tmp_path}", "train")) == ["cat", "dog"]
    assert labels_of(open_source(f"folder:{tmp_path}", "test")) == ["dog"]
    assert split_names(f"folder:{tmp_path}") == ("train", "test")


def test_a_split_that_is_there_twice_is_refused(tmp_path):
    put(tmp_path, "train/a.png", "Training/b.png")
    with pytest.raises(BadInputError, match="has the split train twice, Training and train; remove one"):
        open_source(f"folder:{tmp_path}", "train")


def test_a_folder_without_pictures_is_no_class(tmp_path):
    put(tmp_path, "train/cat/a.png", "train/dog/a.png")
    (tmp_path / "train" / "aa_tmp" / "deeper").mkdir(parents=True)
    source = open_source(f"folder:{tmp_path}", "train")
    assert labels_of(source) == ["cat", "dog"]
    assert source.class_names == ("cat", "dog")
    assert "no pictures in aa_tmp, which are no classes" in source.notes[0]


def test_classes_are_matched_by_name_across_splits(tmp_path):
    put(tmp_path, "train/ant/a.png", "train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/dog/b.png")
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    matched = test.with_classes_of(train)
    assert labels_of(matched) == ["cat", "dog"]
    assert [record["label"] for record in matched] == [1, 2]
    assert (matched.class_names, matched.num_classes) == (("ant", "cat", "dog"), 3)
    assert [record["label"] for record in pickle.loads(pickle.dumps(matched))] == [1, 2]
    with pytest.raises(BadInputError, match=r"train has classes that .*test has not: ant; rename or remove them"):
        train.with_classes_of(test)


def test_numbered_classes_are_matched_too(tmp_path):
    pictures = {"train_images": np.zeros((4, 4, 4), np.uint8), "test_images": np.zeros((3, 4, 4), np.uint8)}
    known = save(tmp_path / "a.npz", **pictures, train_labels=np.array([0, 1, 2, 3]), test_labels=np.array([2, 0, 2]))
    train, test = (open_source(known, split) for split in ("train", "test"))
    assert [record["label"] for record in test.with_classes_of(train)] == [2, 0, 2]
    other = save(tmp_path / "b.npz", **pictures, train_labels=np.array([0, 1, 1, 0]), test_labels=np.array([2, 0, 2]))
    train, test = (open_source(other, split) for split in ("train", "test"))
    with pytest.raises(BadInputError, match=r"classes that .* has not: 2"):
        test.with_classes_of(train)


def test_loose_pictures_beside_folders_make_all_unlabelled(tmp_path):
    put(tmp_path, "loose.png", "trip/a.png", "trip/day 2/b.png")
    source = open_source(f"folder:{tmp_path}", "train")
    assert (len(source), source.class_names) == (3, None)
    assert all("label" not in record for record in source)
    assert "loose pictures beside the sub-folders" in source.notes[0]


def test_names_that_are_not_utf_8(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(name, "wb") as file:
        file.write(encoded(colours(4, 4)))
    source = open_source(f"folder:{tmp_path}", "train")
    assert len(source) == 1
    assert source[0]["image"].shape == (4, 4, 3)
    assert source.fingerprint


def test_the_users_home(tmp_path, monkeypatch):
    put(tmp_path, "mine/a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("folder:~/mine", "train")) == 1
    np.savez(tmp_path / "mine.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    assert len(open_source("arrays:~/mine.npz", "train")) == 2


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path, "cat/a.png", "dog/locked/a.png")
    original = folders.os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    with pytest.raises(BadInputError, match=r"dog/locked cannot be read \(Permission denied\); fix or remove it"):
        open_source(f"folder:{tmp_path}", "train")


def test_what_lies_beside_the_splits_is_named(tmp_path):
    put(tmp_path, "train/cat/a.png", "test/cat/b.png", "more/c.png", "d.png", ".hidden/e.png")
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.notes == (f"folder:{tmp_path}/train: beside it lie d.png, more, which are no part of this split.",)
