import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssljax.data.sources import check_enough, open_source, require_labels
from ssljax.types import BadInputError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
RNG = np.random.default_rng(0)


def encoded(pixels, file_format="PNG", mode=None):
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, file_format)
    return stream.getvalue()


def colours(*shape):
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture
def classes(tmp_path):
    """Two classes of three PNGs, of different sizes."""
    pixels = {}
    for label, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels[f"{name}/{i}.png"] = colours(6 + i, 9 + label)
            (tmp_path / name / f"{i}.png").write_bytes(encoded(pixels[f"{name}/{i}.png"]))
    return tmp_path, list(pixels.values())


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"arrays:{path}"


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_of_pixels(tmp_path, shape, labelled):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    labels = {"train_labels": np.array([2, 0, 1, 1, 0], np.uint8)} if labelled else {}
    source = open_source(save(tmp_path / "x.npz", train_images=images, **labels), "train")
    assert len(source) == 5
    assert source.num_classes == (3 if labelled else None)
    assert source.class_names == (("0", "1", "2") if labelled else None)
    for i, record in enumerate(source):
        np.testing.assert_array_equal(record["image"], images[i].reshape(4, 6, -1))
        assert record.get("label") == ([2, 0, 1, 1, 0][i] if labelled else None)


def test_arrays_of_encoded_pictures(tmp_path):
    pixels = [colours(3 + i, 5) for i in range(4)]
    files = [encoded(image) for image in pixels]
    source = open_source(
        save(
            tmp_path / "x.npz",
            test_jpeg=np.frombuffer(b"".join(files), np.uint8),
            test_offsets=np.cumsum([0, *map(len, files)]),
            test_labels=np.array([0, 1, 1, 0]),
            class_names=np.array(["red", "blue"]),
        ),
        "test",
    )
    assert source.class_names == ("red", "blue")
    for image, label, record in zip(pixels, [0, 1, 1, 0], source, strict=True):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


def test_folder_of_classes(classes):
    path, pixels = classes
    source = open_source(f"folder:{path}", "train")
    assert (len(source), source.class_names) == (6, ("cat", "dog"))
    for image, label, record in zip(pixels, [0, 0, 0, 1, 1, 1], source, strict=True):
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


def test_folder_with_splits_and_loose_files(tmp_path):
    for split, count in [("train", 3), ("test", 2)]:
        (tmp_path / split).mkdir()
        for i in range(count):
            (tmp_path / split / f"{i}.JPG").write_bytes(encoded(colours(8, 8), "JPEG"))
        (tmp_path / split / "notes.txt").write_text("not a picture")
    assert [len(open_source(f"folder:{tmp_path}", split)) for split in ("train", "test")] == [3, 2]
    source = open_source(f"folder:{tmp_path}", "test")
    assert source.class_names is None
    assert "label" not in source[0]
    with pytest.raises(BadInputError, match="no split 'val'; there are: test, train"):
        open_source(f"folder:{tmp_path}", "val")


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, file_format):
    grey = np.repeat(RNG.choice(np.array([0, 255], np.uint8), (8, 8, 1)), 3, axis=2)
    (tmp_path / f"0.{file_format.lower()}").write_bytes(encoded(grey, file_format, mode))
    image = open_source(f"folder:{tmp_path}", "train")[0]["image"]
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_allclose(image.astype(int), grey, atol=40 if file_format == "JPEG" else 0)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 256, 0x1234, 0xFFFF]], np.uint16)
    (tmp_path / "0.png").write_bytes(encoded(deep))
    image = open_source(f"folder:{tmp_path}", "train")[0]["image"]
    np.testing.assert_array_equal(image[0], np.repeat([[0], [1], [0x12], [0xFF]], 3, axis=1))


def test_transparent_palette(tmp_path):
    image = Image.fromarray(colours(6, 6)).quantize(8)
    image.save(tmp_path / "0.png", transparency=bytes([0, 128, 255]))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(open_source(f"folder:{tmp_path}", "train")[0]["image"], expected)


@pytest.mark.parametrize(("min_side", "shape"), [(None, (64, 96)), (33, (64, 96)), (32, (32, 48)), (9, (16, 24))])
def test_min_side_decodes_large_jpegs_smaller(tmp_path, min_side, shape):
    ramp = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (64, 96, 3))
    (tmp_path / "0.jpg").write_bytes(encoded(np.ascontiguousarray(ramp), "JPEG"))
    image = open_source(f"folder:{tmp_path}", "train", min_side=min_side)[0]["image"]
    assert image.shape == (*shape, 3)
    np.testing.assert_allclose(image[0, :, 0], np.linspace(0, 255, shape[1]), atol=8)


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
        with pytest.raises(BadInputError, match=rf"{name}: .*; mend it or skip bad pictures\.$") as error:
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
    with pytest.raises(BadInputError, match="not one of the 1 pictures can be read"):
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
        ("embedded:mnist", "embedded:fashion_mnist does"),
    ]:
        with pytest.raises(BadInputError, match=message):
            open_source(spec, "train")
    with pytest.raises(BadInputError, match="no split 'valid'; there are: test, train"):
        open_source("embedded:fashion_mnist", "valid")


def test_a_folder_must_not_mix_loose_files_and_classes(classes):
    (classes[0] / "loose.png").write_bytes(encoded(colours(4, 4)))
    with pytest.raises(BadInputError, match="keep one kind"):
        open_source(f"folder:{classes[0]}", "train")


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
        ({"train_images": np.zeros((3, 2, 2, 2), np.uint8)}, "with C 1 or 3"),
        ({"train_images": np.array([None])}, "without pickles"),
        ({"train_images": IMAGES, "train_labels": np.zeros(2, int)}, r"must be int \[3\]"),
        ({"train_images": IMAGES, "train_labels": np.zeros(3)}, r"float64 \[3\] and must be int"),
        ({"train_images": IMAGES, "train_labels": np.array([0, 1, -1])}, "holds -1 to 1"),
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
    with pytest.raises(BadInputError, match="has 6 pictures, less than a batch of 7"):
        check_enough(source, 7)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(encoded(colours(4, 4)))
    single = open_source(f"folder:{tmp_path}/flat", "train")
    with pytest.raises(BadInputError, match="has 1 picture, less than a batch of 2"):
        check_enough(single, 2)
    with pytest.raises(BadInputError, match="has no labels"):
        require_labels(single)


def test_fingerprint_follows_the_content_and_not_the_place(classes, tmp_path):
    path, _ = classes
    before = open_source(f"folder:{path}", "train").fingerprint
    assert before == open_source(f"folder:{path}", "train").fingerprint
    path.rename(tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved")
    assert open_source(f"folder:{moved}", "train").fingerprint == before
    (moved / "dog" / "2.png").write_bytes(encoded(colours(3, 3)))
    changed = open_source(f"folder:{moved}", "train").fingerprint
    (moved / "dog" / "2.png").rename(moved / "dog" / "3.png")
    assert len({before, changed, open_source(f"folder:{moved}", "train").fingerprint}) == 3


def test_fingerprint_of_arrays(tmp_path):
    images = RNG.integers(0, 256, (40, 3, 3), dtype=np.uint8)
    variants = [
        {"train_images": images},
        {"train_images": images[:39]},
        {"train_images": images + np.uint8(1)},
        {"train_images": images, "train_labels": np.zeros(40, int)},
        {"train_images": images, "train_labels": np.ones(40, int)},
    ]
    specs = [save(tmp_path / f"{i}.npz", **arrays) for i, arrays in enumerate(variants)]
    assert len({open_source(spec, "train").fingerprint for spec in specs}) == len(variants)


def test_a_source_survives_pickling(damaged):
    source = open_source(f"folder:{damaged}", "train", skip_bad=True)
    copy = pickle.loads(pickle.dumps(source))
    assert (len(copy), copy.fingerprint, copy.class_names) == (6, source.fingerprint, source.class_names)
    np.testing.assert_array_equal(copy[1]["image"], source[1]["image"])
    assert len(copy.bad) == 1


@pytest.mark.skipif(not (SHARED / "cifar10_jpeg.npz").exists(), reason="the shared data is not here")
def test_cifar10():
    source = open_source(f"arrays:{SHARED / 'cifar10_jpeg.npz'}", "test")
    assert (len(source), source.num_classes) == (10_000, 10)
    assert source.class_names is not None
    assert source.class_names[0] == "airplane"
    labels = [source[i]["label"] for i in range(0, 10_000, 100)]
    assert set(labels) == set(range(10))
    assert source[0]["image"].shape == (32, 32, 3)
