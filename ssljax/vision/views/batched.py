"""A view without branches: every operation is done and the draw selects, so that all images go through together.

For accelerators: matmuls and element-wise passes alone, under `vmap` neither a gather nor a loop.
"""

import jax.numpy as jnp

from ssljax.types import Array
from ssljax.vision.views.blur import blur_columns, blur_matrix
from ssljax.vision.views.color import grey_planes, jitter_planes, join_planes, solarize, split_planes
from ssljax.vision.views.crop import clip_overshoot, crop_columns
from ssljax.vision.views.drawn import Drawn
from ssljax.vision.views.recipe import View


def apply(image: Array, drawn: Drawn, view: View) -> Array:
    """The view of one image.

    Args:
        image: uint8[H, W, C].
        drawn: what to do.
        view: the recipe; what it never does costs nothing.

    Returns:
        float32[size, size, C] in [0, 1].
    """
    if view.scale is None:
        columns = jnp.where(drawn.flip, image[:, ::-1], image)
        columns = jnp.moveaxis(columns, 0, 2).astype(jnp.float32) / 255
    else:
        columns = crop_columns(image, drawn.box, view.size, drawn.flip, view.interpolation)
        columns = clip_overshoot(columns, view.interpolation)
    planes = split_planes(columns, 1)
    if view.jitters:
        planes = jitter_planes(planes, drawn.factors, drawn.ranks)
    if view.grey > 0:
        planes = grey_planes(planes, drawn.grey)
    columns = join_planes(planes, 1)
    if view.blur > 0:
        matrix = blur_matrix(view.size, drawn.sigma, view.taps)
        matrix = jnp.where(drawn.blur, matrix, jnp.eye(view.size))
        pixels = blur_columns(columns, matrix, matrix)
    else:
        pixels = jnp.moveaxis(columns, 2, 0)
    if view.solarize > 0:
        pixels = jnp.where(drawn.solarize, solarize(pixels, view.solarize_threshold), pixels)
    return pixels
