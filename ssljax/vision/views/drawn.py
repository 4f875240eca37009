"""What chance decides about one view of one image."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssljax.types import Array
from ssljax.vision.views.color import JITTER_DRAWS, jitter_from
from ssljax.vision.views.crop import BOX_DRAWS, box_from
from ssljax.vision.views.recipe import View


class Drawn(NamedTuple):
    """The draws for one view; all of them are made, also those that the recipe does not use.

    Attributes:
        box: int32[4], top, left, height and width of the crop in pixels.
        flip: bool[], mirror left and right.
        jitter: bool[], change the colours.
        factors: float32[4], see `color.sample_jitter`.
        ranks: int32[4], their order.
        grey: bool[], drop the colour.
        blur: bool[], blur,
        sigma: float32[], with this standard deviation in pixels.
        solarize: bool[], invert the bright values.
    """

    box: Array
    flip: Array
    jitter: Array
    factors: Array
    ranks: Array
    grey: Array
    blur: Array
    sigma: Array
    solarize: Array


def draw(key: Array, height: int, width: int, view: View) -> Drawn:
    """Draw for one image of `height` x `width` pixels."""
    # one draw for all: each call of the generator costs a kernel, and half a second of compilation on a CPU
    draws = jax.random.uniform(key, (5 + JITTER_DRAWS + BOX_DRAWS,))
    coins, jitter_draws, box_draws = draws[:5], draws[5 : 5 + JITTER_DRAWS], draws[5 + JITTER_DRAWS :]
    if view.scale is None:
        box = jnp.array([0, 0, height, width])
    else:
        box = box_from(box_draws, height, width, view.scale, view.ratio)
    factors, ranks = jitter_from(jitter_draws, view.jitter, view.jitter_prob)
    low, high = view.blur_sigma
    return Drawn(
        box=box,
        flip=coins[0] < view.flip,
        jitter=jitter_draws[-1] < view.jitter_prob,
        factors=factors,
        ranks=ranks,
        grey=coins[1] < view.grey,
        blur=coins[2] < view.blur,
        sigma=low + (high - low) * coins[3],
        solarize=coins[4] < view.solarize,
    )
