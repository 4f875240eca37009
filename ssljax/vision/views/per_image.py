"""A view with branches: only what is drawn is done. For a CPU, image after image.

Resizing and blurring multiply by banded matrices; here block by block, by what is not zero.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from ssljax.types import Array
from ssljax.vision.pictures import REACH
from ssljax.vision.views.color import Planes, grey_planes, jitter_planes_by_branches, solarize
from ssljax.vision.views.crop import clip_overshoot, filter_weights
from ssljax.vision.views.drawn import Drawn
from ssljax.vision.views.recipe import View

BLOCK = 32  # rows of a result that are made at a time


def apply(image: Array, drawn: Drawn, view: View) -> Array:
    """The view of one image; arguments and result as `batched.apply`, equal to 1e-5."""
    planes = _whole(image, drawn) if view.scale is None else _crop(image, drawn, view)
    if view.jitters:
        planes = _if(drawn.jitter, lambda p: jitter_planes_by_branches(p, drawn.factors, drawn.ranks), planes)
    if view.grey > 0:
        planes = _if(drawn.grey, lambda p: grey_planes(p, True), planes)
    columns = planes[0] if len(planes) == 1 else jnp.stack(planes, 1)
    if view.blur > 0:
        pixels = lax.cond(drawn.blur, lambda x: _blur(x, drawn.sigma, view.taps), _upright, columns)
    else:
        pixels = _upright(columns)
    if view.solarize > 0:
        pixels = lax.cond(drawn.solarize, lambda x: solarize(x, view.solarize_threshold), lambda x: x, pixels)
    return pixels


def _if(on: Array, change, planes: Planes) -> Planes:
    return lax.cond(on, lambda p: tuple(change(p)), lambda p: p, tuple(planes))


def _whole(image: Array, drawn: Drawn) -> Planes:
    """All of an image in [0, 1] as planes, see `_planes`."""
    columns = jnp.moveaxis(image, 0, 1)
    columns = lax.cond(drawn.flip, lambda x: x[::-1], lambda x: x, columns).astype(jnp.float32) / 255
    return _planes(jnp.moveaxis(columns, 2, 1))


def _crop(image: Array, drawn: Drawn, view: View) -> Planes:
    """The crop in [0, 1] as planes, see `_planes`."""
    top, left, height, width = drawn.box
    channels, size = image.shape[2], view.size
    rows = image.reshape(image.shape[0], -1).astype(jnp.float32)
    tall = _resize(rows, (top, height), view, False, 1 / 255).reshape(size, -1, channels)
    columns = jnp.moveaxis(tall, 0, 2).reshape(-1, channels * size)
    columns = clip_overshoot(_resize(columns, (left, width), view, drawn.flip), view.interpolation)
    return _planes(columns.reshape(size, channels, size))


def _planes(columns: Array) -> Planes:
    """Planes of [W, C, H]: [W, H] of each channel of RGB, or all of it where there is another number of channels."""
    return [columns[:, c] for c in range(3)] if columns.shape[1] == 3 else [columns]


def _resize(x: Array, span: tuple[Array, Array], view: View, flip: Array | bool, unit: float = 1.0) -> Array:
    """`crop.resize_weights(...) @ x` for x[n, m]: each block of the result needs a window of rows only."""
    (start, length), size, reach = span, view.size, REACH[view.interpolation]
    total, most = x.shape[0], max(1.0, x.shape[0] / size)
    window = min(total, int(np.ceil((BLOCK - 1) * x.shape[0] / size + 2 * reach * most)) + 1)
    parts = []
    for low in range(0, size, BLOCK):
        out = jnp.arange(low, min(low + BLOCK, size))
        out = jnp.where(flip, size - 1 - out, out)
        centres = start + (out[jnp.array([0, -1])] + 0.5) * length / size
        first = jnp.floor(centres.min() - reach * jnp.maximum(length / size, 1.0)).astype(jnp.int32)
        first = jnp.clip(first, 0, total - window)
        weights = unit * filter_weights(out, first + jnp.arange(window), span, size, view.interpolation)
        parts.append(weights @ lax.dynamic_slice_in_dim(x, first, window))
    return jnp.concatenate(parts)


def _blur(columns: Array, sigma: Array, taps: int) -> Array:
    """A Gaussian on both axes of [W, C, H], as `blur.gaussian_blur`; returns [H, W, C]."""
    width, channels, height = columns.shape
    blurred = _blur_rows(columns.reshape(width, -1), sigma, taps).reshape(columns.shape)
    return _blur_rows(_upright(blurred).reshape(height, -1), sigma, taps).reshape(height, width, channels)


def _blur_rows(x: Array, sigma: Array, taps: int) -> Array:
    """Along the first axis of x[n, m], its border reflected."""
    reach = taps // 2
    distance = np.arange(BLOCK + 2 * reach)[None] - np.arange(BLOCK)[:, None] - reach
    kernel = jnp.where(np.abs(distance) <= reach, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    kernel /= kernel[:1].sum()
    padded = jnp.pad(x, ((reach, reach), (0, 0)), mode="reflect")
    parts = []
    for low in range(0, x.shape[0], BLOCK):
        rows = min(BLOCK, x.shape[0] - low)
        parts.append(kernel[:rows, : rows + 2 * reach] @ padded[low : low + rows + 2 * reach])
    return jnp.concatenate(parts)


def _upright(columns: Array) -> Array:
    return jnp.moveaxis(columns, 2, 0)
