"""Pictures by index: `open_source` opens a tfds set, a folder, an `.npz` file, packed pictures or the embedded set."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from ssljax.types import BadInputError
from ssljax.vision import pictures
from ssljax.vision.array_files import array_splits, embedded_splits, open_arrays, open_embedded
from ssljax.vision.folders import SPLITS, folder_splits, open_folder
from ssljax.vision.grey import in_grey
from ssljax.vision.packed import open_packed, packed_splits
from ssljax.vision.reader import Reader, part_of
from ssljax.vision.tfds_sets import open_tfds, tfds_splits

OPENERS: dict[str, tuple[Callable[..., Reader], Callable[..., list[str]]]] = {
    "arrays": (open_arrays, array_splits),
    "embedded": (open_embedded, embedded_splits),
    "folder": (open_folder, folder_splits),
    "packed": (open_packed, packed_splits),
    "tfds": (open_tfds, tfds_splits),
}
SAMPLED = 8


class Source:
    """A random-access data source, as grain's are: `len(source)` and `source[i]`.

    `source[i]` is `{"image": uint8[H, W, C], "label": int}`, without "label" if unlabelled. With
    `skip_bad` an unreadable picture gives the next readable one's record, whose "skipped" says what was
    skipped and why. Pickling stores how it was opened, so that each worker opens it for itself.

    Attributes:
        name: what messages call it.
        class_names: a name for each label, or None if unlabelled.
        num_classes: their number, or None if unlabelled.
        bad: the unreadable pictures met so far, `{name: reason}`.
        notes: sentences on what was passed over when it was opened.
    """

    def __init__(self, reader: Reader, reopen: Callable[[], "Source"], skip_bad: bool, min_side: int | None):
        self._reader, self._reopen, self._skip_bad, self._min_side = reader, reopen, skip_bad, min_side
        self.name = reader.name
        self.class_names = reader.class_names
        self.num_classes = None if reader.class_names is None else len(reader.class_names)
        self.bad: dict[str, str] = {}
        self.notes = reader.notes
        self._labels: tuple[int, ...] | None = None  # what this set's labels are called instead

    def __len__(self) -> int:
        return self._reader.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self)} pictures>"

    def __reduce__(self):
        return _reopened, (self._reopen, self.class_names)

    @property
    def arrays(self) -> dict[str, np.ndarray] | None:
        """All records as arrays, where the set is in memory anyway: "image" and, where there are labels, "label"."""
        arrays = self._reader.arrays
        if arrays is None or "label" not in arrays:
            return arrays
        labels = arrays["label"].astype(np.int32)
        return {
            "image": arrays["image"],
            "label": labels if self._labels is None else np.array(self._labels, np.int32)[labels],
        }

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, int[N], where they are known without reading pictures; None where not, or unlabelled."""
        labels = self._reader.labels
        return labels if labels is None or self._labels is None else np.array(self._labels)[labels]

    def part(self, indices: np.ndarray, name: str) -> "Source":
        """The pictures `indices` of this set, as a set called `name`."""
        return _part(self._reopen, indices, name)

    def picture_name(self, index: int) -> str:
        """What messages call picture `index`: its path, or the set and its number; the keys of `bad`."""
        return self._reader.picture_name(index)

    def encoded(self) -> Iterator[bytes]:
        """Each picture's file, or its pixels, as bytes; what cannot be read is left out."""
        for position in range(len(self)):
            with contextlib.suppress(BadInputError, OSError):
                picture, _ = self._reader.read(position)
                yield picture if isinstance(picture, bytes) else picture.tobytes()

    def with_classes_of(self, other: "Source") -> "Source":
        """This set with the labels that `other` has for classes of the same names.

        Raises:
            BadInputError: this set has a class that `other` has not.
        """
        if self.class_names is None or other.class_names is None or self.class_names == other.class_names:
            return self
        known = set(other.class_names)
        unknown = [name for name in self.class_names if name not in known]
        if unknown:
            names = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise BadInputError(f"{self.name} has classes that {other.name} has not: {names}; rename or remove them.")
        return _reopened(self._reopen, other.class_names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: no picture {index}; there are {len(self)}.")
        skipped = {}
        for candidate in range(index, index + len(self)):
            position = int(candidate % len(self))
            try:
                record = self._record(position)
                return record | {"skipped": skipped} if skipped else record
            except (BadInputError, OSError) as error:
                name = self._reader.picture_name(position)
                if not self._skip_bad:
                    raise BadInputError(f"{name}: {error}; fix it or pass --skip-bad.") from error
                skipped[name] = self.bad[name] = str(error)
        raise BadInputError(
            f"{self.name}: none of the {len(self)} pictures can be read; give a set of readable pictures."
        )

    def _record(self, position: int) -> dict[str, Any]:
        picture, label = self._reader.read(position)
        if isinstance(picture, bytes):
            picture = pictures.decode(picture, channels=self._reader.channels, min_side=self._min_side)
        if label is None:
            return {"image": picture}
        return {"image": picture, "label": label if self._labels is None else self._labels[label]}

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the set is, in short: its size and a hash of its names, shapes, labels and a few pictures."""
        digest = hashlib.sha256(self._reader.identity)
        for position in range(0, len(self), -(-len(self) // SAMPLED) or 1):
            try:
                picture, label = self._reader.read(position)
                digest.update(picture if isinstance(picture, bytes) else picture.tobytes())
                digest.update(str(label).encode())
            except (BadInputError, OSError):
                digest.update(b"unreadable")
        return f"{len(self)}-{digest.hexdigest()[:16]}"


def _reopened(reopen: Callable[[], Source], class_names: tuple[str, ...] | None) -> Source:
    """A source opened anew, its labels being positions in `class_names`."""
    source = reopen()
    if class_names is not None and class_names != source.class_names:
        positions = {name: label for label, name in enumerate(class_names)}
        source._labels = tuple(positions[name] for name in source.class_names or ())
        source.class_names, source.num_classes = class_names, len(class_names)
    return source


def _part(reopen: Callable[[], Source], indices: np.ndarray, name: str) -> Source:
    whole = reopen()
    part = part_of(whole._reader, indices, name)
    return Source(part, functools.partial(_part, reopen, indices, name), whole._skip_bad, whole._min_side)


def open_source(
    spec: str,
    split: str,
    *,
    skip_bad: bool = False,
    data_dir: str | None = None,
    min_side: int | None = None,
    channels: Literal[1, 3] = 3,
) -> Source:
    """Open one split of a data set.

    Args:
        spec: one of
            `tfds:NAME`, a tensorflow-datasets set prepared as array_record (TensorFlow is not needed), with a
            feature `image` and perhaps an integer `label`;
            `folder:PATH`, JPEG, PNG, WebP, TIFF and other files of any size and mode, always read as RGB, in
            PATH/`split` if it exists, else in PATH: a folder for each class (classes are the sorted names of those
            with pictures, at any depth and through links), or loose files, with which all are unlabelled;
            `arrays:FILE.npz` with `{split}_images`, uint8 [N, H, W] or [N, H, W, C], C 1 to 16, or `{split}_jpeg`,
            uint8, encoded pictures end to end, read as RGB, picture i from `{split}_offsets[i]` to `[i + 1]`;
            and optionally `{split}_labels`, int [N], all -1 for none, and `class_names`, without which the labels
            that occur are the classes;
            `packed:DIR`, made by `python -m experiments.pack_images`, pictures of one size;
            `embedded:fashion_mnist`, 12,000 training and 2,000 test pictures that come with ssljax.
        split: "train", "test" or whatever the set calls it; tfds takes slices such as "train[:10%]".
        skip_bad: skip unreadable pictures and count them in `source.bad` instead of stopping.
        data_dir: directory of tfds sets; None: tfds' own default.
        min_side: pixels; larger JPEGs are decoded at a fraction of their size (see `pictures.decode`).
        channels: 1 reads RGB as grey by Pillow's weights (ITU-R 601); 3 decodes files to RGB and leaves pixels as
            they are.

    Returns:
        The source.

    Raises:
        BadInputError: the kind, set, file or split does not exist, or cannot be used.

    >>> source = open_source("embedded:fashion_mnist", "test")
    >>> len(source), source.num_classes, source[0]["image"].shape
    (2000, 10, (28, 28, 1))
    """
    if channels not in (1, 3):
        raise BadInputError(f"channels={channels}: give 1 for grey, or 3.")
    return _open(spec, split, {"skip_bad": skip_bad, "data_dir": data_dir, "min_side": min_side, "grey": channels == 1})


def _open(spec: str, split: str, options: dict[str, Any], numbers: np.ndarray | None = None) -> Source:
    kind, where = _kind(spec)
    reader = OPENERS[kind][0](where, split, *((options["data_dir"], numbers) if kind == "tfds" else ()))
    if not reader.length:
        raise BadInputError(f"{reader.name} has no pictures; give a split that has some.")
    reopen = functools.partial(_open, spec, split, options, reader.numbers)
    return Source(in_grey(reader) if options["grey"] else reader, reopen, options["skip_bad"], options["min_side"])


def _kind(spec: str) -> tuple[str, str]:
    kind, _, where = spec.partition(":")
    if kind not in OPENERS or not where:
        kinds = "tfds:NAME, folder:PATH, arrays:FILE.npz, packed:DIR or embedded:fashion_mnist"
        raise BadInputError(f"data={spec!r} is not a kind of data; use {kinds}.")
    return kind, where


def split_names(spec: str, data_dir: str | None = None) -> tuple[str, ...]:
    """The splits of a data set: train, val, valid, validation, test, then others by name.

    Args:
        spec: as `open_source`.
        data_dir: likewise.

    Returns:
        Names for `open_source`; none if a folder has no folders of those names: all of it is one split, however called.

    Raises:
        BadInputError: the kind or set does not exist.

    >>> split_names("embedded:fashion_mnist")
    ('train', 'test')
    """
    kind, where = _kind(spec)
    names = OPENERS[kind][1](where, *((data_dir,) if kind == "tfds" else ()))
    places = {name: place for place, name in enumerate(SPLITS)}
    return tuple(sorted(names, key=lambda name: (places.get(name, len(places)), name)))
