"""A part of Fashion-MNIST that comes with the package: 12,000 training and 2,000 test pictures, 28x28, grey.

Provenance: Zalando Research's Fashion-MNIST (github.com/zalandoresearch/fashion-mnist), under the MIT licence
in `LICENSE` beside this file. Kept are the first 1,200 training and the first 200 test pictures of each
class, in the original order, with pixels untouched; `build.py` makes the file from the whole set.
Reference: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.
"""

import functools
import hashlib
import lzma
from pathlib import Path

import numpy as np

from ssljax.types import BadInputError

FILE = Path(__file__).parent / "fashion_mnist.xz"
FILE_SHA256 = "f8328e4bfbbba9e4edb89512bb347ce17c84089db9a6c90a68bc25cef0cc0f25"
CONTENT_SHA256 = "0065ed5f9f2d2f512ebf7a3d6bebdcb96656db1de81926291197401d8592a015"
PER_CLASS = {"train": 1200, "test": 200}
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of one split.

    Args:
        split: "train" (12,000) or "test" (2,000).

    Returns:
        uint8[N, 28, 28, 1] (read-only) and int32[N].

    Raises:
        BadInputError: there is no such split, or the file is damaged.

    >>> images, labels = load("test")
    >>> images.shape, CLASS_NAMES[labels[0]]
    ((2000, 28, 28, 1), 'Ankle boot')
    """
    if split not in PER_CLASS:
        raise BadInputError(f"embedded:fashion_mnist has no split {split!r}; there are: test, train.")
    count = 10 * PER_CLASS[split]
    start = 0 if split == "train" else 10 * PER_CLASS["train"] * (784 + 1)
    content = np.frombuffer(_content(FILE), np.uint8)[start : start + count * (784 + 1)]
    images, labels = np.split(content, [count * 784])
    return images.reshape(count, 28, 28, 1), labels.astype(np.int32)


@functools.cache
def _content(file: Path) -> bytes:
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() == FILE_SHA256:
        content = lzma.decompress(data)
        if hashlib.sha256(content).hexdigest() == CONTENT_SHA256:
            return content
    raise BadInputError(f"{file} is not the released file (its SHA-256 differs); install ssljax again.")
