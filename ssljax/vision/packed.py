"""Pictures decoded, resized and cropped once, and kept as pixels in a file that is mapped into memory.

A split is a directory: `images`, uint8 [N, side, side, C] end to end; `sums.npy`, a checksum (CRC-32) of each picture;
`labels.npy`; and `manifest.json`, which describes them. A picture costs side * side * C bytes, 196,608 at 256 in
colour (252 GB for ImageNet), several times its JPEG, and is read without being decoded. Processes share the mapped
pages, so workers hold no copies.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.data.tfds_sets import missing_split
from ssljax.types import BadInputError
from ssljax.vision.pictures import MOST_CHANNELS
from ssljax.vision.reader import Reader

FORMAT, VERSION = "ssljax packed pictures", 1
IMAGES, SUMS, LABELS, MANIFEST = "images", "sums.npy", "labels.npy", "manifest.json"
AHEAD = 64  # pictures read in advance


def pack(
    source: Any, transform: Callable, out: str, split: str, *, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """Write a source's pictures, each through `transform`, to `out`/`split`, which appears when it is complete.

    Args:
        source: a `sources.Source`; pictures that it skips are not packed.
        transform: `(record, rng) -> record`, such as `pictures.resize_center(256, 256)`: one size for all.
        out: the directory of the splits.
        split: what this one is called.
        progress: called with (pictures done, number of pictures).

    Returns:
        The manifest.

    Raises:
        BadInputError: the split exists already, or a picture cannot be read.
    """
    target, partial = Path(out) / split, Path(out) / f"{split}.partial"
    if target.exists():
        raise BadInputError(f"{target} exists; remove it to pack the pictures again, or choose another directory.")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    partial.mkdir(parents=True)
    sums, labels, shape = [], [], None
    with open(partial / IMAGES, "wb") as file:
        for number, record in enumerate(_records(source, transform), start=1):
            progress(number, len(source))
            if "skipped" in record:
                continue
            image = np.ascontiguousarray(record["image"])
            shape = shape or image.shape
            if image.shape != shape:
                found = f"{list(shape)} and {list(image.shape)}"
                raise BadInputError(f"{source.name} gives pictures {found}; use a transform to one size.")
            file.write(image.data)
            sums.append(zlib.crc32(image.data))
            labels.append(record.get("label", -1))
        _flush(file)
    if not sums:
        raise BadInputError(
            f"{source.name}: none of the {len(source)} pictures can be read; give a set of readable pictures."
        )
    arrays: dict[str, np.ndarray] = {SUMS: np.array(sums, np.uint32)}
    if source.class_names is not None:
        arrays[LABELS] = np.array(labels, np.int32)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "shape": [len(sums), *shape],  # type: ignore[misc]
        "class_names": source.class_names,
        "left_out": len(source) - len(sums),
        "source": source.fingerprint,
        "checksums": {name: _save(partial / name, array) for name, array in arrays.items()},
    }
    with open(partial / MANIFEST, "w") as file:
        file.write(json.dumps(manifest, indent=2))
        _flush(file)
    partial.rename(target)
    return json.loads(json.dumps(manifest))


def open_packed(path: str, split: str) -> Reader:
    """One split of a directory that `pack` made; damage to a picture shows when it is read.

    Raises:
        BadInputError: there is none, or it is of another kind, cut short or damaged.
    """
    directory = Path(path).expanduser() / split
    if not directory.is_dir():
        raise missing_split(f"packed:{path}", split, packed_splits(path))
    try:
        manifest = _manifest(directory)
        shape = tuple(manifest["shape"])
        arrays = {key: _load(directory / key, wanted) for key, wanted in manifest["checksums"].items()}
        sums, labels, names = arrays[SUMS], arrays.get(LABELS), manifest["class_names"]
        size = (directory / IMAGES).stat().st_size
        if size != np.prod(shape, dtype=np.int64) or len(sums) != shape[0]:
            raise ValueError(f"{IMAGES} has {size:,} bytes, which is not {list(shape)}")
        if labels is not None and (len(labels) != len(sums) or not 0 <= labels.min() <= labels.max() < len(names)):
            raise ValueError(f"{LABELS} does not fit its classes and pictures")
        pixels = np.memmap(directory / IMAGES, np.uint8, "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"packed:{directory} is damaged or of another kind ({error}); pack it again.") from error

    def read(index: int) -> tuple[np.ndarray, int | None]:
        picture = np.array(pixels[index])  # a copy: nothing that lives on refers to the file
        if zlib.crc32(picture.data) != sums[index]:
            raise BadInputError("its bytes have changed since they were packed")
        return picture, None if labels is None else int(labels[index])

    return Reader(
        name=f"packed:{directory}",
        length=shape[0],
        read=read,
        picture_name=lambda index: f"packed:{directory}: picture {index}",
        class_names=None if names is None else tuple(names),
        identity=json.dumps(manifest, sort_keys=True).encode(),
        channels=shape[3],
        labels=None if labels is None else np.asarray(labels),
    )


def packed_splits(path: str) -> list[str]:
    """The splits of a directory that `pack` made.

    Raises:
        BadInputError: there is no such directory, or none in it.
    """
    root, name = Path(path).expanduser(), f"packed:{path}"
    if not root.is_dir():
        raise BadInputError(f"{name}: there is no such directory; make it with python -m experiments.pack_images.")
    splits = [found.parent.name for found in root.glob(f"*/{MANIFEST}") if found.parent.suffix != ".partial"]
    if not splits:
        raise BadInputError(f"{name} holds no packed pictures; make them with python -m experiments.pack_images.")
    return splits


def _records(source: Any, transform: Callable) -> Iterator[dict[str, Any]]:
    """In order, read by threads a little ahead."""
    rng = np.random.default_rng(0)  # transforms must not draw from it

    def read(index: int) -> dict[str, Any]:
        return transform(source[index], rng)

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        indices = iter(range(len(source)))
        waiting = [pool.submit(read, index) for index in itertools.islice(indices, AHEAD)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(read, index) for index in itertools.islice(indices, 1)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _manifest(directory: Path) -> dict[str, Any]:
    manifest = json.loads((directory / MANIFEST).read_text())
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} is not that of packed pictures")
    if manifest["version"] != VERSION:
        raise ValueError(f"version {manifest['version']}, not {VERSION}")
    shape = manifest["shape"]
    sizes = len(shape) == 4 and all(isinstance(side, int) and side > 0 for side in shape)
    if not sizes or shape[3] > MOST_CHANNELS:
        raise ValueError(f"shape {shape}")
    if SUMS not in manifest["checksums"]:
        raise ValueError("no checksums")
    if (manifest["class_names"] is None) != (LABELS not in manifest["checksums"]):
        raise ValueError("labels without classes or classes without labels")
    return manifest


def _save(path: Path, array: np.ndarray) -> str:
    stream = io.BytesIO()
    np.save(stream, array)
    with open(path, "wb") as file:
        file.write(stream.getbuffer())
        _flush(file)
    return hashlib.sha256(stream.getbuffer()).hexdigest()


def _load(path: Path, wanted: str) -> np.ndarray:
    if path.name not in (SUMS, LABELS):
        raise ValueError(f"{path.name} is not expected there")
    stored = path.read_bytes()
    if hashlib.sha256(stored).hexdigest() != wanted:
        raise ValueError(f"{path.name} is not what was written")
    return np.load(io.BytesIO(stored), allow_pickle=False)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
