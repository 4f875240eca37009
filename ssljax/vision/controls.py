"""Pictures as features without any encoder: what a representation is compared with."""

import math

import numpy as np

MOST = 1024  # numbers a picture
PIECE = 1024  # pictures at a time


def raw_features(images: np.ndarray, most: int = MOST) -> np.ndarray:
    """Pixels in [0, 1] as one row a picture, averaged over areas where there are more than `most` of them.

    Pixels are averaged over equal areas, as many as fit into `most` numbers at the picture's proportions: 32 x 32 in
    RGB becomes 18 x 18, 28 x 28 in grey stays. A probe's cost would otherwise grow with the cube of the pixels.

    Args:
        images: uint8[N, H, W, C].
        most: numbers a picture, at least C.

    Returns:
        float32[N, h * w * C].

    >>> raw_features(np.full((2, 32, 32, 3), 255, np.uint8)).shape, raw_features(np.zeros((1, 28, 28, 1))).shape
    ((2, 972), (1, 784))
    """
    height, width, channels = images.shape[1:]
    scale = math.sqrt(most / (height * width * channels))
    if scale >= 1:
        return images.reshape(len(images), -1).astype(np.float32) / 255
    rows = _areas(height, min(max(1, int(height * scale)), most // channels))
    columns = _areas(width, max(1, min(int(width * scale), most // channels // len(rows))))
    parts = [images[start : start + PIECE].astype(np.float32) / 255 for start in range(0, len(images), PIECE)]
    made = [np.einsum("hH,nHWc,wW->nhwc", rows, part, columns, optimize=True) for part in parts]
    return np.concatenate(made).reshape(len(images), -1)


def _areas(size: int, count: int) -> np.ndarray:
    """float32[count, size]: what share of each of `count` equal stretches each of `size` pixels is."""
    edges = np.arange(count + 1) * (size / count)
    starts, stops = np.arange(size), np.arange(1, size + 1)
    overlap = np.minimum(stops, edges[1:, None]) - np.maximum(starts, edges[:-1, None])
    return (np.maximum(overlap, 0) * (count / size)).astype(np.float32)
