"""Pictures by index: `open_source` opens a tfds set, a folder, an `.npz` file, packed pictures or the embedded set."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from ssljax.data import pictures
from ssljax.data.array_files import open_arrays, open_embedded
from ssljax.data.folders import open_folder
from ssljax.data.packed import open_packed
from ssljax.data.reader import Reader
from ssljax.data.tfds_sets import open_tfds
from ssljax.types import BadInputError

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

    `source[i]` is `{"image": uint8[H, W, C], "label": int}`, without "label" where there are none. With
    `skip_bad` an unreadable picture gives the next readable one's record, whose "skipped" says what was
    passed over and why. Pickling stores how it was opened, so that each worker opens it for itself.

    Attributes:
        name: what messages call it.
        class_names: a name for each label, or None if unlabelled.
        num_classes: their number, or None if unlabelled.
        bad: the unreadable pictures met so far, `{name: reason}`.
    """

    def __init__(self, reader: Reader, reopen: Callable[[], "Source"], skip_bad: bool, min_side: int | None):
        self._reader, self._reopen, self._skip_bad, self._min_side = reader, reopen, skip_bad, min_side
        self.name = reader.name
        self.class_names = reader.class_names
        self.num_classes = None if reader.class_names is None else len(reader.class_names)
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        return self._reader.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self)} pictures>"

    def __reduce__(self):
        return self._reopen, ()

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
                    raise BadInputError(f"{name}: {error}; mend it or skip bad pictures.") from error
                skipped[name] = self.bad[name] = str(error)
        raise BadInputError(f"{self.name}: not one of the {len(self)} pictures can be read.")

    def _record(self, position: int) -> dict[str, Any]:
        picture, label = self._reader.read(position)
        if isinstance(picture, bytes):
            picture = pictures.decode(picture, channels=self._reader.channels, min_side=self._min_side)
        return {"image": picture} if label is None else {"image": picture, "label": label}

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


def open_source(
    spec: str, split: str, *, skip_bad: bool = False, data_dir: str | None = None, min_side: int | None = None
) -> Source:
    """Open one split of a data set.

    Args:
        spec: one of
            `tfds:NAME`, a tensorflow-datasets set prepared as array_record (TensorFlow is not needed);
            `folder:PATH`, JPEG and PNG files of any size and mode, always read as RGB, in PATH/`split` if it
            exists, else in PATH: a folder for each class (classes are the sorted names) or loose files;
            `arrays:FILE.npz` with `{split}_images`, uint8 [N, H, W] or [N, H, W, C], or `{split}_jpeg`,
            uint8, encoded pictures end to end, read as RGB, picture i from `{split}_offsets[i]` to `[i + 1]`;
            and, where there are such, `{split}_labels`, int [N], and `class_names`;
            `packed:DIR`, made by `python -m experiments.pack_images`, pictures of one size;
            `embedded:fashion_mnist`, 12,000 training and 2,000 test pictures that come with ssljax.
        split: "train", "test" or whatever the set calls it; tfds takes slices such as "train[:10%]".
        skip_bad: pass over unreadable pictures and count them in `source.bad` instead of stopping.
        data_dir: where tfds sets lie; None is tfds' own default.
        min_side: pixels; larger JPEGs are decoded at a fraction of their size (see `pictures.decode`).

    Returns:
        The source.

    Raises:
        BadInputError: there is no such kind, set, file or split, or what is there cannot be used.

    >>> source = open_source("embedded:fashion_mnist", "test")
    >>> len(source), source.num_classes, source[0]["image"].shape
    (2000, 10, (28, 28, 1))
    """
    kind, _, where = spec.partition(":")
    if kind not in OPENERS or not where:
        kinds = "tfds:NAME, folder:PATH, arrays:FILE.npz, packed:DIR or embedded:fashion_mnist"
        raise BadInputError(f"data={spec!r} is not a kind of data that ssljax reads; give {kinds}.")
    reader = OPENERS[kind](where, split, data_dir) if kind == "tfds" else OPENERS[kind](where, split)
    options = {"skip_bad": skip_bad, "data_dir": data_dir, "min_side": min_side}
    return Source(reader, functools.partial(open_source, spec, split, **options), skip_bad, min_side)


def name_of(source: Any) -> str:
    """What to call a source in a message."""
    return getattr(source, "name", type(source).__name__)


def read_record(source: Any, index: int) -> Any:
    """`source[index]` of any random-access object; whatever it raises becomes one sentence with its name and `index`.

    Only a `Source` can skip what it cannot read; another object has to give some other record by itself.

    Raises:
        BadInputError: the record cannot be read.
    """
    try:
        return source[index]
    except (Exception, SystemExit) as error:  # the object is the user's, and raises what it likes
        if isinstance(error, BadInputError) and isinstance(source, Source):
            raise
        raise BadInputError(f"{name_of(source)}: record {index} cannot be read ({told(error)}); mend it.") from error


def told(error: BaseException) -> str:
    """An exception's type and message in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__


def check_enough(source: Any, batch_size: int) -> None:
    """Make sure that there are pictures for at least one batch.

    Raises:
        BadInputError: there are fewer.
    """
    if len(source) < batch_size:
        count = "1 picture" if len(source) == 1 else f"{len(source)} pictures"
        have = f"{name_of(source)} has {count}"
        raise BadInputError(f"{have}, less than a batch of {batch_size}; lower the batch size.")


def require_labels(source: Any) -> None:
    """Make sure that the records have labels.

    Raises:
        BadInputError: they have none.
    """
    if "label" not in read_record(source, 0):
        raise BadInputError(f"{name_of(source)} has no labels, which this needs; give a set with labels.")
