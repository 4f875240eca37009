"""Rebuild the embedded set: `python -m ssljax.vision.fashion_mnist.build PATH/fashion_mnist.npz`."""

import argparse
import hashlib
import lzma
from pathlib import Path

import numpy as np

from ssljax.types import BadInputError
from ssljax.vision.fashion_mnist import CONTENT_SHA256, FILE, FILE_SHA256, PER_CLASS

# everything that decides the bytes is spelled out; presets are what a later liblzma may redefine
FILTER = {
    "id": lzma.FILTER_LZMA2,
    "dict_size": 1 << 23,
    "lc": 3,
    "lp": 0,
    "pb": 2,
    "mode": lzma.MODE_NORMAL,
    "nice_len": 64,
    "mf": lzma.MF_BT4,
    "depth": 0,
}


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Where the first `per_class` examples of each class are, in file order: [N] -> int64[10 * per_class]."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))


def build(source: Path) -> tuple[bytes, bytes]:
    """The embedded set's content (train images, train labels, test images, test labels) and its file.

    Raises:
        BadInputError: `source` is not the canonical Fashion-MNIST.
    """
    parts = []
    with np.load(source, allow_pickle=False) as arrays:
        for split, per_class in PER_CLASS.items():
            labels = arrays[f"{split}_labels"]
            chosen = first_of_each_class(labels, per_class)
            parts += [arrays[f"{split}_images"][chosen], labels[chosen]]
    content = b"".join(part.astype(np.uint8).tobytes() for part in parts)
    if hashlib.sha256(content).hexdigest() != CONTENT_SHA256:
        raise BadInputError(f"{source}: these are not Fashion-MNIST's pixels in their original order.")
    return content, lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=[FILTER])


def main(arguments: list[str] | None = None) -> None:
    """Write the file and say whether it is byte for byte the released one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the whole set: {train,test}_{images,labels}, uint8")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    _, data = build(options.source)
    options.out.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    verdict = "the released file" if digest == FILE_SHA256 else "the same pixels in other bytes than released"
    print(f"{options.out}: {len(data)} bytes, SHA-256 {digest}: {verdict}")


if __name__ == "__main__":
    main()
