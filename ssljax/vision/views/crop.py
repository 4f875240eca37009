"""Random-resized-crop with torchvision's distribution and Pillow's filter, as two small matmuls."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.types import Array
from ssljax.vision.pictures import Interpolation

ATTEMPTS = 10
BOX_DRAWS = 2 * ATTEMPTS + 2


def sample_crop(
    key: Array,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Array:
    """A random box: uniform area, log-uniform aspect ratio, uniform place.

    Args:
        key: PRNG key.
        height: height of the image in pixels.
        width: width of the image in pixels.
        scale: smallest and largest area of the box, as a share of the image's.
        ratio: smallest and largest width / height of the box.

    Returns:
        int32[4]: top, left, height, width in pixels. The first of ten draws that fits in the image, else
        the largest centred box whose ratio lies in `ratio`.

    Reference:
        torchvision `transforms/transforms.py`, `RandomResizedCrop.get_params`; drawn in float32 here.
    """
    return box_from(jax.random.uniform(key, (BOX_DRAWS,)), height, width, scale, ratio)


def box_from(draws: Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Array:
    """The box of `sample_crop` from its `BOX_DRAWS` uniform numbers."""
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:ATTEMPTS])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = jnp.exp(low + (high - low) * draws[ATTEMPTS:-2])
    widths, heights = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # the first that fits, as a one-hot row: no gather, no loop
    first = fits & (jnp.cumsum(fits) == 1)
    sizes = jnp.where(first[:, None], jnp.stack([heights, widths], 1), 0).sum(0)
    sizes = jnp.where(fits.any(), sizes, np.array(_centred_size(height, width, ratio), np.float32))
    room = np.array([height, width], np.float32) - sizes
    corner = jnp.minimum(jnp.floor(draws[-2:] * (room + 1)), room)
    corner = jnp.where(fits.any(), corner, jnp.floor(room / 2))
    return jnp.concatenate([corner, sizes]).astype(jnp.int32)


def _centred_size(height, width, ratio):
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


def resize_weights(
    start,
    length,
    size_in: int,
    size_out: int,
    flip: Array | bool = False,
    interpolation: Interpolation = "bilinear",
) -> Array:
    """The matrix that crops one axis and resizes it with one of Pillow's antialiased filters.

    Args:
        start: first pixel of the crop, an int scalar (traced or not).
        length: pixels in the crop, an int scalar.
        size_in: pixels before.
        size_out: pixels after.
        flip: whether the output is mirrored, a bool scalar.
        interpolation: the filter.

    Returns:
        float32[size_out, size_in], rows summing to 1, zero outside the crop.

    Reference:
        Pillow `src/libImaging/Resample.c`, `precompute_coeffs`: a triangle, or Keys' cubic with a = -1/2, stretched by
        the downsampling factor, cut at the crop's edges and renormalised; torchvision's `antialias=True` is the same.
    """
    out = jnp.arange(size_out)
    out = jnp.where(flip, size_out - 1 - out, out)
    return filter_weights(out, np.arange(size_in), (start, length), size_out, interpolation)


def filter_weights(
    out: Array, pixels: Array | np.ndarray, span: tuple, size_out: int, interpolation: Interpolation
) -> Array:
    """The entries of `resize_weights` in some rows and columns.

    Args:
        out: int[n], rows: pixels after; mirrored already.
        pixels: int[k], columns: pixels before, among them all that those rows need.
        span: first pixel and number of pixels of the crop, int scalars.
        size_out: pixels after.
        interpolation: the filter.

    Returns:
        float32[n, k].
    """
    start, length = span
    step = length / size_out
    centres = start + (out + 0.5) * step
    distance = jnp.abs(pixels[None] + 0.5 - centres[:, None]) / jnp.maximum(step, 1.0)
    weights = _cubic(distance) if interpolation == "bicubic" else jnp.maximum(0.0, 1.0 - distance)
    weights = jnp.where(((pixels >= start) & (pixels < start + length))[None], weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


def _cubic(x: Array) -> Array:
    """Keys' kernel at distances >= 0 with a = -1/2, as Pillow; torch's resizing without antialiasing has a = -3/4."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def resized_crop(
    image: Array | np.ndarray,
    box: Array | np.ndarray,
    size: int,
    flip: Array | bool = False,
    interpolation: Interpolation = "bilinear",
) -> Array:
    """Cut a box out, resize it to a square and mirror it.

    Args:
        image: uint8[H, W, C], or floats.
        box: int[4], top, left, height, width.
        size: pixels a side after.
        flip: whether to mirror left and right, a bool scalar.
        interpolation: "bilinear", or "bicubic", which overshoots beside edges: the result is not clipped.

    Returns:
        float32[size, size, C]; uint8 images are scaled to [0, 1].

    Reference:
        torchvision's `resized_crop(..., antialias=True)` of floats; Pillow's `crop(box).resize(size)`, without its
        rounding and clipping to uint8 after each axis.

    >>> print(resized_crop(jnp.array([[[0], [255]]], jnp.uint8), jnp.array([0, 0, 1, 2]), 2)[..., 0])
    [[0. 1.]
     [0. 1.]]
    """
    return jnp.moveaxis(crop_columns(image, box, size, flip, interpolation), 2, 0)


def crop_columns(
    image: Array | np.ndarray,
    box: Array | np.ndarray,
    size: int,
    flip: Array | bool = False,
    interpolation: Interpolation = "bilinear",
) -> Array:
    """As `resized_crop`, laid out [W, C, H]: both matmuls then need no transpose."""
    top, left, height, width = jnp.asarray(box)
    unit = 1 / 255 if image.dtype == jnp.uint8 else 1.0
    rows = resize_weights(top, height, image.shape[0], size, interpolation=interpolation) * unit
    columns = resize_weights(left, width, image.shape[1], size, flip, interpolation)
    # HIGH: three bfloat16 passes on a TPU, TF32 on a GPU; the default's 8 bits would show as noise of half a level
    high = jax.lax.Precision.HIGH
    tall = jnp.einsum("hwc,oh->wco", jnp.asarray(image, jnp.float32), rows, precision=high)
    return jnp.einsum("pw,wco->pco", columns, tall, precision=high)


def clip_overshoot(pixels: Array, interpolation: Interpolation) -> Array:
    """Values in [0, 1], where the colour operations belong: of the two filters only the bicubic overshoots."""
    return jnp.clip(pixels, 0.0, 1.0) if interpolation == "bicubic" else pixels
