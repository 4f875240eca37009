"""Pictures and data files made for the tests of sources."""

import io

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def encoded(pixels, file_format="PNG", mode=None):
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, file_format)
    return stream.getvalue()


def colours(*shape):
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"arrays:{path}"
