"""Pictures by index: `open_source` opens a tfds set, a folder, an `.npz` file, packed pictures or the embedded set."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ssljax.types import BadInputError
from ssljax.vision import pictures
from ssljax.vision.array_files import open_arrays, open_embedded
from ssljax.vision.folders import open_folder
from ssljax.vision.packed import open_packed
from ssljax.vision.reader import Reader
from ssljax.vision.tfds_sets import open_tfds

OPENERS: dict[str, Callable[..., Reader]] = {
    "arrays": open_arrays,
    "embedded": open_embedded,
    "folder": open_folder,
    "packed": open_packed,
    "tfds": open_tfds,
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
    reader = whole._reader
    part = reader._replace(
        name=name,
        length=len(indices),
        read=lambda i: reader.read(int(indices[i])),
        picture_name=lambda i: reader.picture_name(int(indices[i])),
        identity=reader.identity + indices.tobytes(),
        arrays=None if reader.arrays is None else {key: values[indices] for key, values in reader.arrays.items()},
        labels=None if reader.labels is None else reader.labels[indices],
    )
    return Source(part, functools.partial(_part, reopen, indices, name), whole._skip_bad, whole._min_side)


def open_source(
    spec: str, split: str, *, skip_bad: bool = False, data_dir: str | None = None, min_side: int | None = None
) -> Source:
    """Open one split of a data set.

    Args:
        spec: one of
            `tfds:NAME`, a tensorflow-datasets set prepared as array_record (TensorFlow is not needed);
            `folder:PATH`, JPEG, PNG, WebP, TIFF and other files of any size and mode, always read as RGB, in
            PATH/`split` if it exists, else in PATH: a folder for each class (classes are the sorted names of those
            with pictures, at any depth and through links), or loose files, with which all are unlabelled;
            `arrays:FILE.npz` with `{split}_images`, uint8 [N, H, W] or [N, H, W, C], or `{split}_jpeg`,
            uint8, encoded pictures end to end, read as RGB, picture i from `{split}_offsets[i]` to `[i + 1]`;
            and optionally `{split}_labels`, int [N], and `class_names`;
            `packed:DIR`, made by `python -m experiments.pack_images`, pictures of one size;
            `embedded:fashion_mnist`, 12,000 training and 2,000 test pictures that come with ssljax.
        split: "train", "test" or whatever the set calls it; tfds takes slices such as "train[:10%]".
        skip_bad: skip unreadable pictures and count them in `source.bad` instead of stopping.
        data_dir: directory of tfds sets; None: tfds' own default.
        min_side: pixels; larger JPEGs are decoded at a fraction of their size (see `pictures.decode`).

    Returns:
        The source.

    Raises:
        BadInputError: the kind, set, file or split does not exist, or cannot be used.

    >>> source = open_source("embedded:fashion_mnist", "test")
    >>> len(source), source.num_classes, source[0]["image"].shape
    (2000, 10, (28, 28, 1))
    """
    kind, _, where = spec.partition(":")
    if kind not in OPENERS or not where:
        kinds = "tfds:NAME, folder:PATH, arrays:FILE.npz, packed:DIR or embedded:fashion_mnist"
        raise BadInputError(f"data={spec!r} is not a kind of data; use {kinds}.")
    reader = OPENERS[kind](where, split, data_dir) if kind == "tfds" else OPENERS[kind](where, split)
    options = {"skip_bad": skip_bad, "data_dir": data_dir, "min_side": min_side}
    return Source(reader, functools.partial(open_source, spec, split, **options), skip_bad, min_side)
