"""Colour operations on floats in [0, 1], with torchvision's meaning and Pillow's grey.

An image is an array with 1 to 16 channels on `axis`. Of other than three there is no hue, saturation or grey: those
operations are then the identity, and the rest treat all channels alike. Inside, RGB travels as separate planes: the
operations then fuse into a few passes, where stacking after each makes XLA recompute its inputs channel by channel.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.types import Array

# ITU-R 601, as Pillow's mode "L"; torchvision's tensors use .2989 for red, which makes white .9999
GREY = (0.299, 0.587, 0.114)
Planes = Sequence[Array]


def split_planes(image: Array | np.ndarray, axis: int) -> Planes:
    """Of RGB each channel, of length 1 on `axis`; of any other number of channels one plane of them all."""
    if image.shape[axis] != 3:
        return [jnp.asarray(image)]
    return [jax.lax.slice_in_dim(image, c, c + 1, axis=axis) for c in range(image.shape[axis])]


def join_planes(planes: Planes, axis: int) -> Array:
    """The inverse of `split_planes`."""
    # selects fuse; a concatenate of a long chain is recomputed exponentially by XLA:CPU
    if len(planes) == 1:
        return planes[0]
    shape = list(planes[0].shape)
    shape[axis] = 3
    channel = jax.lax.broadcasted_iota(jnp.int32, shape, axis % len(shape))
    red, green, blue = planes
    return jnp.where(channel == 0, red, jnp.where(channel == 1, green, blue))


def _grey(planes):
    if len(planes) == 1:
        return planes[0]  # its mean, the contrast's reference, is that of all channels
    red, green, blue = (weight * plane for weight, plane in zip(GREY, planes, strict=True))
    return red + green + blue


def _blend(planes, reference, factor):
    return [jnp.clip(factor * p + (1 - factor) * reference, 0.0, 1.0) for p in planes]


def _brightness(planes, factor):
    return [jnp.minimum(factor * p, 1.0) for p in planes]


def _saturation(planes, factor):
    return planes if len(planes) == 1 else _blend(planes, _grey(planes), factor)


def _contrast(planes, factor):
    return _blend(planes, _grey(planes).mean(), factor)


def _hue(planes, shift):
    if len(planes) == 1:
        return planes
    red, green, blue = planes
    top = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = top - low
    unit = jnp.where(chroma == 0, 1.0, chroma)
    # Not `top == red`: XLA may compute red twice and round it differently. Near a tie either sector gives the same hue,
    # as long as one comparison picks sector and rise together.
    in_red, in_green = (red >= green) & (red >= blue), green >= blue
    in_rest = jnp.where(in_green, 2 + (blue - red) / unit, 4 + (red - green) / unit)
    hue = jnp.where(in_red, (green - blue) / unit, in_rest) + 6 * shift
    hue = hue - 6 * jnp.floor(hue / 6)
    # each channel is a trapezium of the hue, between the least and the greatest channel
    heights = [jnp.abs(hue - 3) - 1, 2 - jnp.abs(hue - 2), 2 - jnp.abs(hue - 4)]
    return [low + chroma * jnp.clip(height, 0.0, 1.0) for height in heights]


def adjust_brightness(image: Array | np.ndarray, factor: Array | float) -> Array:
    """Multiply and clip to [0, 1]; `factor` is a scalar >= 0, 1 changes nothing."""
    return jnp.minimum(factor * image, 1.0)


def adjust_contrast(image: Array | np.ndarray, factor: Array | float, axis: int = -1) -> Array:
    """Blend with the mean of the grey image, or of all channels if not RGB; `factor` >= 0, 1 changes nothing."""
    return join_planes(_contrast(split_planes(image, axis), factor), axis)


def adjust_saturation(image: Array | np.ndarray, factor: Array | float, axis: int = -1) -> Array:
    """Blend with the grey image; `factor` is a scalar >= 0, 1 changes nothing; the identity if not RGB."""
    return join_planes(_saturation(split_planes(image, axis), factor), axis)


def adjust_hue(image: Array | np.ndarray, shift: Array | float, axis: int = -1) -> Array:
    """Turn the hue by `shift` turns, a scalar in [-.5, .5]; the identity if not RGB.

    Reference:
        torchvision `transforms/_functional_tensor.py`, `adjust_hue`; the same function of HSV in closed form.
    """
    return join_planes(_hue(split_planes(image, axis), shift), axis)


def to_grey(image: Array | np.ndarray, axis: int = -1) -> Array:
    """The grey image on as many channels as before; the identity if not RGB.

    >>> print(to_grey(jnp.array([1.0, 0.0, 0.0])))
    [0.299 0.299 0.299]
    """
    return jnp.broadcast_to(_grey(split_planes(image, axis)), image.shape)


def solarize(image: Array | np.ndarray, threshold: Array | float = 0.5) -> Array:
    """Invert the values at or above `threshold`."""
    return jnp.where(image >= threshold, 1 - image, image)


# cheapest first: n operations in any order are a subsequence of "all the cheaper, this one, all the cheaper again"
_OPERATIONS = (_brightness, _saturation, _hue, _contrast)
_SETTINGS = (0, 2, 3, 1)  # their places in (brightness, contrast, saturation, hue)
_IDENTITY = (1.0, 1.0, 1.0, 0.0)
JITTER_DRAWS = 9


def sample_jitter(key: Array, jitter: tuple[float, float, float, float], prob: float = 1.0) -> tuple[Array, Array]:
    """Factors and order of a colour jitter.

    Args:
        key: PRNG key.
        jitter: strengths (brightness, contrast, saturation, hue); a factor is uniform in
            [max(0, 1 - strength), 1 + strength], the hue's shift in [-strength, strength] turns.
        prob: probability that anything is done; if not, the factors are (1, 1, 1, 0).

    Returns:
        float32[4] factors and int32[4] ranks: operation i is the `ranks[i]`-th, all orders equally likely.
    """
    return jitter_from(jax.random.uniform(key, (JITTER_DRAWS,)), jitter, prob)


def jitter_from(draws: Array, jitter: tuple[float, float, float, float], prob: float) -> tuple[Array, Array]:
    """The factors and ranks of `sample_jitter` from its `JITTER_DRAWS` uniform numbers."""
    low = np.array([*(max(0.0, 1 - s) for s in jitter[:3]), -jitter[3]], np.float32)
    high = np.array([*(1 + s for s in jitter[:3]), jitter[3]], np.float32)
    factors = low + (high - low) * draws[:4]
    factors = jnp.where(draws[8] < prob, factors, np.array(_IDENTITY, np.float32))
    mine, other = draws[4:8, None], draws[None, 4:8]
    earlier = (other < mine) | ((other == mine) & np.tri(4, k=-1, dtype=bool))
    return factors, earlier.sum(1)


def jitter_planes(planes: Planes, factors: Array | np.ndarray, ranks: Array | np.ndarray) -> Planes:
    """The four operations by `factors`[4] in the order `ranks`[4], see `sample_jitter`."""
    places = list(ranks)  # scalars

    def stretch(planes, i, lives):
        if i < 0:
            return planes
        me = _SETTINGS[i]
        before = [alive & (place < places[me]) for alive, place in zip(lives, places, strict=True)]
        after = [alive & (place > places[me]) for alive, place in zip(lives, places, strict=True)]
        planes = stretch(planes, i - 1, before)
        planes = _OPERATIONS[i](planes, jnp.where(lives[me], factors[me], _IDENTITY[me]))
        return stretch(planes, i - 1, after)

    return stretch(planes, len(_OPERATIONS) - 1, [True] * 4)


def jitter_planes_by_branches(planes: Planes, factors: Array, ranks: Array) -> Planes:
    """`jitter_planes` by branches: one operation after the other, as drawn. For what is not under `vmap`."""
    now = tuple(planes)

    def branch(number):
        return lambda planes: tuple(_OPERATIONS[number](planes, factors[_SETTINGS[number]]))

    branches = [branch(number) for number in range(len(_OPERATIONS))]
    places = jnp.stack([ranks[setting] for setting in _SETTINGS])
    for turn in range(len(_OPERATIONS)):
        now = jax.lax.switch(jnp.argmax(places == turn), branches, now)
    return now


def grey_planes(planes: Planes, on: Array | bool) -> Planes:
    """The grey image where `on`, a bool scalar."""
    grey = _grey(planes)
    return [jnp.where(on, grey, p) for p in planes]


def color_jitter(
    key: Array, image: Array | np.ndarray, jitter: tuple[float, float, float, float], prob: float = 1.0, axis: int = -1
) -> Array:
    """Brightness, contrast, saturation and hue by random amounts in a random order.

    Args:
        key: PRNG key.
        image: float32 in [0, 1] with 1 to 16 channels on `axis`.
        jitter: strengths (brightness, contrast, saturation, hue), see `sample_jitter`.
        prob: probability that anything is done.
        axis: the channels' axis.

    Returns:
        As `image`.

    Reference:
        torchvision `transforms/transforms.py`, `ColorJitter`.
    """
    planes = jitter_planes(split_planes(image, axis), *sample_jitter(key, jitter, prob))
    return join_planes(planes, axis)
