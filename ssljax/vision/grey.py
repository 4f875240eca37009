"""Pictures of three channels read as grey, by Pillow's weights (ITU-R 601)."""

from typing import Any

import numpy as np

from ssljax.types import BadInputError
from ssljax.vision.array_files import aligned
from ssljax.vision.reader import Reader

PIECE = 1 << 24  # bytes converted at a time


def in_grey(reader: Reader) -> Reader:
    """The same pictures in one channel; those that have one stay as they are.

    Raises:
        BadInputError: they have neither one nor three.
    """
    if reader.channels == 1:
        return reader
    if reader.channels != 3:
        found = f"{reader.name} has pictures of {reader.channels} channels"
        raise BadInputError(f"channels=1: {found}, of which there is no grey; leave it (--grey) out.")
    grey = reader._replace(channels=1, identity=reader.identity + b" in grey")
    if reader.arrays is None:

        def read(index: int) -> tuple[Any, int | None]:
            picture, label = reader.read(index)
            return picture if isinstance(picture, bytes) else to_grey(picture), label

        return grey._replace(read=read)
    images, labels = _all_in_grey(reader.arrays["image"]), reader.labels
    return grey._replace(
        read=lambda index: (images[index], None if labels is None else int(labels[index])),
        arrays=reader.arrays | {"image": images},
    )


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """uint8[..., H, W, 3] -> uint8[..., H, W, 1], as Pillow's mode "L".

    >>> to_grey(np.array([[[255, 0, 0], [0, 255, 0], [255, 255, 255]]], np.uint8))[..., 0]
    array([[ 76, 150, 255]], dtype=uint8)
    """
    from PIL import Image

    whole = Image.fromarray(pixels.reshape(-1, *pixels.shape[-2:]))
    return np.asarray(whole.convert("L")).reshape(*pixels.shape[:-1], 1)


def _all_in_grey(images: np.ndarray) -> np.ndarray:
    made = aligned((*images.shape[:3], 1), images.dtype)
    step = max(1, PIECE // max(1, images[:1].nbytes))
    for low in range(0, len(images), step):
        made[low : low + step] = to_grey(images[low : low + step])
    return made
