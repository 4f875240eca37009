"""Pictures in an `.npz` file, as pixels or encoded, and the set that comes with the package."""

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.data.tfds_sets import missing_split
from ssljax.types import BadInputError
from ssljax.vision import fashion_mnist
from ssljax.vision.classes import classes_of
from ssljax.vision.pictures import MOST_CHANNELS
from ssljax.vision.reader import Reader

WANTED = "SPLIT_images (uint8 [N, H, W] or [N, H, W, C]) or SPLIT_jpeg (uint8) and SPLIT_offsets (int)"

HIGHEST_RATIO = 1032  # deflate's
ALIGNMENT, PIECE = 64, 1 << 20  # bytes; zipfile makes a copy of what it reads at once
HEADER = 1 << 16  # bytes; NumPy refuses more than 10,000


def open_embedded(which: str, split: str) -> Reader:
    """The embedded set `which`; there is one, Fashion-MNIST."""
    embedded_splits(which)
    images, labels = fashion_mnist.load(split)
    return _reader(f"embedded:fashion_mnist ({split})", images, labels, fashion_mnist.CLASS_NAMES)


def embedded_splits(which: str) -> list[str]:
    """The splits of the embedded set `which`."""
    if which != "fashion_mnist":
        raise BadInputError(f"embedded:{which} is unknown; use embedded:fashion_mnist.")
    return list(fashion_mnist.PER_CLASS)


def array_splits(file: str) -> list[str]:
    """The splits of an `.npz` file."""
    file = str(Path(file).expanduser())
    return sorted(_reading(file, lambda stored: _members(file, stored)[1]))


def open_arrays(file: str, split: str) -> Reader:
    """One split of an `.npz` file; `open_source` states the layouts."""
    file = str(Path(file).expanduser())
    arrays = _load(file, split)
    labels, names = arrays.get(f"{split}_labels"), arrays.get("class_names")
    if f"{split}_images" in arrays:
        pictures = _pixels(file, f"{split}_images", arrays[f"{split}_images"])
    else:
        pictures = _Encoded(file, split, arrays)
    if labels is not None:
        _check_labels(file, f"{split}_labels", labels, len(pictures), names)
    class_names = None if names is None else tuple(str(name) for name in names)
    return _reader(f"arrays:{file} ({split})", pictures, labels, class_names)


class _Encoded:
    """Encoded pictures end to end in one array: `encoded[i]` -> bytes."""

    def __init__(self, file: str, split: str, arrays: dict[str, np.ndarray]):
        self.data, self.offsets = arrays[f"{split}_jpeg"], arrays.get(f"{split}_offsets", np.zeros(0))
        fits = self.data.dtype == np.uint8 and self.data.ndim == 1
        _check(fits, file, f"{split}_jpeg", self.data, "uint8 [bytes]")
        fits = self.offsets.dtype.kind in "iu" and self.offsets.ndim == 1 and len(self.offsets) > 0
        _check(fits, file, f"{split}_offsets", self.offsets, "int [N + 1]")
        starts = self.offsets.astype(np.int64)
        if starts[0] < 0 or starts[-1] > len(self.data) or (np.diff(starts) < 0).any():
            raise BadInputError(f"{file}: {split}_offsets must rise within 0 to {len(self.data)}, its bytes.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()


def _load(file: str, split: str) -> dict[str, np.ndarray]:
    """What the file holds of this split; the other splits' arrays are not read."""

    def read(stored: zipfile.ZipFile) -> dict[str, np.ndarray]:
        members, splits = _members(file, stored)
        if split not in splits:
            raise missing_split(f"arrays:{file}", split, splits)
        wanted = {f"{split}_{part}" for part in ("images", "labels", "jpeg", "offsets")} | {"class_names"}
        return {key: _member(stored, info) for key, info in members.items() if key in wanted}

    return _reading(file, read)


def _members(file: str, stored: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], set[str]]:
    """The arrays of a file and the splits that they make."""
    _check_directory(file, stored)
    members = {info.filename.removesuffix(".npy"): info for info in stored.infolist()}
    splits = {key.rpartition("_")[0] for key in members if key.endswith(("_images", "_jpeg"))}
    if not splits:
        held = ", ".join(members) or "nothing"
        raise BadInputError(f"arrays:{file} holds {held} and must hold {WANTED}.")
    return members, splits


def _reading(file: str, read: Callable[[zipfile.ZipFile], Any]) -> Any:
    if not Path(file).is_file():
        raise BadInputError(f"arrays:{file}: there is no such file; give the path of an .npz file.")
    try:
        with zipfile.ZipFile(file) as stored:
            return read(stored)
    except BadInputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds of exceptions on damaged bytes
        raise BadInputError(f"arrays:{file} is not an .npz file without pickles ({error}).") from error


def _check_directory(file: str, stored: zipfile.ZipFile) -> None:
    """A damaged directory could hide a member, such as the labels: its length and the names are stored twice."""
    with open(file, "rb") as stream:
        stream.seek(-min(Path(file).stat().st_size, 1 << 16), os.SEEK_END)
        end = stream.read().rpartition(b"PK\x05\x06")[2]
    count = int.from_bytes(end[6:8], "little")
    if count != len(stored.infolist()):
        raise ValueError(f"its directory lists {len(stored.infolist())} of {count} members")
    for info in stored.infolist():
        stored.open(info).close()


def _member(stored: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array; its claimed size is compared with the file before memory is allocated."""
    room = min(info.compress_size, Path(str(stored.filename)).stat().st_size)
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: HIGHEST_RATIO}.get(info.compress_type, 0)
    if info.file_size > ratio * room + HEADER:
        raise ValueError(f"{info.filename} claims {info.file_size} bytes in {room}")
    with stored.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(stream)
        if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) > info.file_size:
            raise ValueError(f"{info.filename} claims {dtype} {list(shape)} in {info.file_size} bytes")
        if not (by_columns or dtype.hasobject):
            array = aligned(shape, dtype)
            rest = array.reshape(-1).view(np.uint8).data
            while rest and (count := stream.readinto(rest[:PIECE])):  # type: ignore[attr-defined]
                rest = rest[count:]
            if rest or stream.read(1):
                raise ValueError(f"{info.filename} holds more or less than its array")
            return array
    with stored.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        # the checksum is compared at the end of the member only
        if stream.read(1):
            raise ValueError(f"{info.filename} holds more than its array")
    return array


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that jax uses on a CPU as it is: others are copied."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def _pixels(file: str, key: str, images: np.ndarray) -> np.ndarray:
    shaped = images.ndim == 3 or (images.ndim == 4 and 1 <= images.shape[-1] <= MOST_CHANNELS)
    wanted = f"uint8 [N, H, W] or [N, H, W, C], of values 0 to 255, with C 1 to {MOST_CHANNELS}"
    _check(images.dtype == np.uint8 and shaped, file, key, images, wanted)
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 3:
        shape = list(images.shape)
        raise BadInputError(f"{file}: {key} is {shape}, which looks like [N, C, H, W]; give [N, H, W, C].")
    return images[..., None] if images.ndim == 3 else images


def _check_labels(file: str, key: str, labels: np.ndarray, count: int, names: np.ndarray | None) -> None:
    _check(labels.dtype.kind in "iu" and labels.shape == (count,), file, key, labels, f"int [{count}]")
    if names is None:
        return
    _check(names.dtype.kind in "US" and names.ndim == 1, file, "class_names", names, "strings [classes]")
    if count and (labels.min() < -1 or labels.max() >= len(names)):
        found = f"{labels.min()} to {labels.max()}"
        raise BadInputError(f"{file}: {key} holds {found} and must lie in 0 to {len(names) - 1} (see class_names).")


def _check(fits: bool, file: str, key: str, array: np.ndarray, wanted: str) -> None:
    if not fits:
        raise BadInputError(f"{file}: {key} is {array.dtype} {list(array.shape)} and must be {wanted}.")


def _reader(
    name: str,
    pictures: np.ndarray | _Encoded,
    labels: np.ndarray | None,
    class_names: tuple[str, ...] | None,
) -> Reader:
    identity = b"" if labels is None else labels.tobytes()
    labels, class_names, _, notes = classes_of(name, labels, class_names)
    layout = pictures.offsets.tobytes() if isinstance(pictures, _Encoded) else str(pictures.shape).encode()
    return Reader(
        name=name,
        length=len(pictures),
        read=lambda i: (pictures[i], None if labels is None else int(labels[i])),
        picture_name=lambda i: f"{name}: picture {i}",
        class_names=class_names,
        identity=layout + identity,
        channels=3 if isinstance(pictures, _Encoded) else pictures.shape[-1],
        notes=notes,
        arrays=_in_memory(pictures, labels),
        labels=labels,
    )


def _in_memory(pictures: np.ndarray | _Encoded, labels: np.ndarray | None) -> dict[str, np.ndarray] | None:
    if isinstance(pictures, _Encoded):
        return None
    return {"image": pictures} if labels is None else {"image": pictures, "label": labels}
