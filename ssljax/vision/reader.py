"""What is behind each kind of source: a length, and `read(i)` -> (an encoded picture or pixels, a label)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Reader(NamedTuple):
    """Access to one split.

    Attributes:
        name: what messages call the split.
        length: number of pictures.
        read: index -> (encoded file or uint8[H, W, C], label or None).
        picture_name: index -> what messages call the picture.
        class_names: a name for each label, or None if unlabelled.
        identity: bytes that distinguish this set from others, pictures apart.
        channels: number of channels of the pictures; encoded ones are decoded to so many.
        notes: sentences on what was passed over, for the user.
        arrays: all records as arrays, where the pictures are in memory: "image" uint8[N, H, W, C], "label" int[N].
        labels: int[N], where they are known without reading pictures.
        numbers: int64[N], what a worker that opens the set anew need not read again.
    """

    name: str
    length: int
    read: Callable[[int], tuple[bytes | np.ndarray, int | None]]
    picture_name: Callable[[int], str]
    class_names: tuple[str, ...] | None
    identity: bytes
    channels: int = 3
    notes: tuple[str, ...] = ()
    arrays: dict[str, np.ndarray] | None = None
    labels: np.ndarray | None = None
    numbers: np.ndarray | None = None


def part_of(reader: Reader, indices: np.ndarray, name: str) -> Reader:
    """The pictures `indices`, as a split called `name`."""
    return reader._replace(
        name=name,
        length=len(indices),
        read=lambda i: reader.read(int(indices[i])),
        picture_name=lambda i: reader.picture_name(int(indices[i])),
        identity=reader.identity + indices.tobytes(),
        arrays=None if reader.arrays is None else {key: values[indices] for key, values in reader.arrays.items()},
        labels=None if reader.labels is None else reader.labels[indices],
    )
