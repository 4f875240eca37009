"""One random view of each image of a batch: drawn for each, then applied by what suits the device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import Array, BadInputError
from ssljax.vision.pictures import MOST_CHANNELS
from ssljax.vision.views import batched, per_image
from ssljax.vision.views.drawn import draw
from ssljax.vision.views.recipe import View

LARGE = 96  # pixels a side of an image or view; below it, a CPU too is faster on the whole batch


def augment(key: Array, images: Array | np.ndarray, view: View) -> Array:
    """One random view of every image.

    Args:
        key: PRNG key; image i's randomness depends on it, on i and on B alone, not on the devices.
        images: uint8[B, H, W, C] with 1 to 16 channels, sharded over `data` or not.
        view: the recipe.

    Returns:
        float32[B, size, size, C], normalised, sharded over `data` under a mesh.

    Raises:
        BadInputError: the images do not fit the recipe.

    Reference:
        torchvision's transforms on floats, in the order crop, jitter, grey, blur, solarize, normalise.

    Differs from the paper:
        The official pipelines round to 8 bits after each operation, and blur with Pillow's `GaussianBlur`, a
        running box filter; this one keeps floats and a true Gaussian.
    """
    _check_images(images, view)
    return _augment(key, jnp.asarray(images), view)


# jitted here too: operation by operation it would take minutes
@partial(jax.jit, static_argnums=2)
def _augment(key, images, view):
    keys, images = sharding.shard((jax.random.split(key, images.shape[0]), images))

    def together(keys, images):
        return jax.vmap(lambda key, image: _one(key, image, view, batched.apply))(keys, images)

    def by_themselves(keys, images):
        return jax.lax.map(lambda pair: _one(pair[0], pair[1], view, per_image.apply), (keys, images))

    if min(view.size, *images.shape[1:3]) < LARGE:
        return together(keys, images)
    if sharding.has_mesh():
        by_themselves = jax.shard_map(by_themselves, in_specs=P(sharding.DATA), out_specs=P(sharding.DATA))
    # a CPU skips what is not drawn for an image; elsewhere a loop over images is slow
    return jax.lax.platform_dependent(keys, images, cpu=by_themselves, default=together)


def _one(key, image, view, apply):
    drawn = draw(key, image.shape[0], image.shape[1], view)
    return _standardize(apply(image, drawn, view), view.mean, view.std)


def _check_images(images, view):
    shape = list(images.shape)
    if images.ndim != 4 or not 1 <= shape[-1] <= MOST_CHANNELS or images.dtype != jnp.uint8:
        wanted = f"uint8[B, H, W, C] with 1 to {MOST_CHANNELS} channels"
        raise BadInputError(f"images are {images.dtype}{shape}: give {wanted}.")
    _check_mean(shape, view.mean)
    if view.scale is None and shape[1:3] != [view.size] * 2:
        raise BadInputError(
            f"images{shape}: scale=None needs images of {view.size} x {view.size}; resize them or set scale."
        )


def _check_mean(shape, mean):
    if len(mean) not in (1, shape[-1]):
        counts = "1" if shape[-1] == 1 else f"1 or {shape[-1]}, one a channel"
        raise BadInputError(f"images{list(shape)}: mean and std have {len(mean)} values; give {counts}.")


def normalize(images: Array | np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """uint8[..., C] images -> float32[..., C], `(images / 255 - mean) / std`, for evaluation.

    Raises:
        BadInputError: mean and std have neither one value nor one a channel.

    >>> print(normalize(jnp.array([0, 255], jnp.uint8)[:, None], (0.5,), (0.5,))[:, 0])
    [-1.  1.]
    """
    _check_mean(images.shape, mean)
    return _standardize(jnp.asarray(images).astype(jnp.float32) / 255, mean, std)


def _standardize(pixels, mean, std):
    shape = (1,) * (pixels.ndim - 1) + (len(mean),)
    slope = 1 / np.array(std, np.float32).reshape(shape)
    return pixels * slope - np.array(mean, np.float32).reshape(shape) * slope
