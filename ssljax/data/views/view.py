"""A view's recipe, and the random views of a batch that come of it."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import sharding
from ssljax.data.views.blur import blur_columns, blur_matrix
from ssljax.data.views.color import (
    JITTER_DRAWS,
    grey_planes,
    jitter_from,
    jitter_planes,
    join_planes,
    solarize,
    split_planes,
)
from ssljax.data.views.crop import BOX_DRAWS, box_from, crop_columns
from ssljax.types import Array, BadInputError


@dataclass(frozen=True)
class View:
    """One view's recipe, applied in the order of its fields, except that the flip is done with the crop.

    Attributes:
        size: pixels a side after the crop.
        scale: smallest and largest area of the crop, as a share of the image; None: images arrive cropped at `size`.
        ratio: smallest and largest width / height of the crop.
        flip: probability of mirroring left and right.
        jitter: strengths (brightness, contrast, saturation, hue), see `sample_jitter`.
        jitter_prob: probability of the colour jitter.
        grey: probability of dropping the colour.
        blur: probability of the Gaussian blur.
        blur_sigma: its smallest and largest standard deviation, in pixels.
        blur_kernel: its taps, odd; None: a tenth of `size`, as SimCLR (23 at 224).
        solarize: probability of the inversion of bright values.
        solarize_threshold: the value in [0, 1] from which they count as bright.
        mean: subtracted per channel, in [0, 1]; one value, or one a channel.
        std: divided by per channel.

    Raises:
        BadInputError: a value is out of its range.
    """

    size: int = 224
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_prob: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarize: float = 0.0
    solarize_threshold: float = 0.5
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        for name in ("ratio", "jitter", "blur_sigma", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists would not hash
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(self.scale))
            _check_range("scale", self.scale, 1.0)
        if self.size < 1:
            raise BadInputError(f"size={self.size}: a view has at least one pixel a side.")
        for name in ("flip", "jitter_prob", "grey", "blur", "solarize", "solarize_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInputError(f"{name}={getattr(self, name)}: give a value in [0, 1].")
        _check_range("ratio", self.ratio)
        _check_range("blur_sigma", self.blur_sigma)
        if len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise BadInputError(
                f"jitter={self.jitter}: give four strengths >= 0 (brightness, contrast, saturation, hue), hue <= 0.5."
            )
        if self.taps % 2 == 0 or not 1 <= self.taps <= 2 * self.size - 1:
            raise BadInputError(
                f"blur_kernel={self.taps}: give an odd number of taps, at most {2 * self.size - 1} at size {self.size}."
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise BadInputError(
                f"mean={self.mean}, std={self.std}: give one value each, or three, with every std above 0."
            )

    @property
    def taps(self) -> int:
        """Length of the blur's kernel, in pixels."""
        return 2 * (self.size // 20) + 1 if self.blur_kernel is None else self.blur_kernel


def _check_range(name, value, most=float("inf")):
    if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
        limit = "" if most == float("inf") else f" and at most {most:g}"
        raise BadInputError(f"{name}={value}: give (low, high) with 0 < low <= high{limit}.")


@dataclass(frozen=True)
class TwoViews:
    """Two random views of every image; hashable, so that jit can take it as a static argument.

    >>> views = TwoViews(View(size=8), View(size=4))
    >>> batch = views(jax.random.key(0), jnp.zeros((2, 16, 16, 3), jnp.uint8))
    >>> {name: view.shape for name, view in batch.items()}
    {'view_1': (2, 8, 8, 3), 'view_2': (2, 4, 4, 3)}
    """

    view_1: View
    view_2: View

    def __call__(self, key: Array, image: Array | np.ndarray) -> dict[str, Array]:
        """Views `{"view_1", "view_2"}`, float32[B, size, size, C], independent of the number of devices.

        Args:
            key: PRNG key.
            image: uint8[B, H, W, C], or uint8[B, 2, H, W, C] where two crops were made on the host: `image[:, i]`
                then feeds view i + 1, whose `scale` is None.

        Raises:
            BadInputError: the images do not fit the recipe.
        """
        images = (image, image)
        if image.ndim == 5:
            if image.shape[1] != 2 or (self.view_1.scale, self.view_2.scale) != (None, None):
                raise BadInputError(
                    f"image{list(image.shape)}: pairs are [B, 2, H, W, C], already cropped; use views with scale=None."
                )
            images = (image[:, 0], image[:, 1])
        key_1, key_2 = jax.random.split(key)
        return {
            "view_1": augment(key_1, images[0], self.view_1),
            "view_2": augment(key_2, images[1], self.view_2),
        }


def augment(key: Array, images: Array | np.ndarray, view: View) -> Array:
    """One random view of every image.

    Args:
        key: PRNG key; image i's randomness depends on it, on i and on B alone, not on the devices.
        images: uint8[B, H, W, C] with 1 or 3 channels, sharded over `data` or not.
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
    keys = sharding.shard(jax.random.split(key, images.shape[0]))
    return jax.vmap(lambda key, image: _view_of(key, image, view))(keys, sharding.shard(images))


def _check_images(images, view):
    shape = list(images.shape)
    if images.ndim != 4 or shape[-1] not in (1, 3) or images.dtype != jnp.uint8:
        raise BadInputError(f"images are {images.dtype}{shape}: give uint8[B, H, W, C] with 1 or 3 channels.")
    if len(view.mean) not in (1, shape[-1]):
        raise BadInputError(f"images{shape}: mean and std have {len(view.mean)} values; give 1 or {shape[-1]}.")
    if view.scale is None and shape[1:3] != [view.size] * 2:
        raise BadInputError(f"images{shape}: scale=None wants images already {view.size} x {view.size}; set scale.")


def _view_of(key, image, view):
    # one draw for all: each call of the generator costs a kernel, and half a second of compilation on a CPU
    draws = jax.random.uniform(key, (5 + JITTER_DRAWS + BOX_DRAWS,))
    coins, jitter_draws, box_draws = draws[:5], draws[5 : 5 + JITTER_DRAWS], draws[5 + JITTER_DRAWS :]
    flip = coins[0] < view.flip
    if view.scale is None:
        columns = jnp.where(flip, image[:, ::-1], image)
        columns = jnp.moveaxis(columns, 0, 2).astype(jnp.float32) / 255
    else:
        box = box_from(box_draws, image.shape[0], image.shape[1], view.scale, view.ratio)
        columns = crop_columns(image, box, view.size, flip)
    planes = split_planes(columns, 1)
    if view.jitter_prob > 0 and any(view.jitter):
        planes = jitter_planes(planes, *jitter_from(jitter_draws, view.jitter, view.jitter_prob))
    if view.grey > 0:
        planes = grey_planes(planes, coins[1] < view.grey)
    columns = join_planes(planes, 1)
    if view.blur > 0:
        low, high = view.blur_sigma
        matrix = blur_matrix(view.size, low + (high - low) * coins[3], view.taps)
        matrix = jnp.where(coins[2] < view.blur, matrix, jnp.eye(view.size))
        pixels = blur_columns(columns, matrix, matrix)
    else:
        pixels = jnp.moveaxis(columns, 2, 0)
    if view.solarize > 0:
        pixels = jnp.where(coins[4] < view.solarize, solarize(pixels, view.solarize_threshold), pixels)
    return _standardize(pixels, view.mean, view.std)


def normalize(images: Array | np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """uint8[..., C] images -> float32[..., C], `(images / 255 - mean) / std`, for evaluation.

    >>> print(normalize(jnp.array([0, 255], jnp.uint8)[:, None], (0.5,), (0.5,))[:, 0])
    [-1.  1.]
    """
    return _standardize(jnp.asarray(images).astype(jnp.float32) / 255, mean, std)


def _standardize(pixels, mean, std):
    shape = (1,) * (pixels.ndim - 1) + (len(mean),)
    slope = 1 / np.array(std, np.float32).reshape(shape)
    return pixels * slope - np.array(mean, np.float32).reshape(shape) * slope
