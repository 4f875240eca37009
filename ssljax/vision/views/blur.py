"""Gaussian blur as two banded matmuls."""

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.types import Array, BadInputError


def blur_matrix(size: int, sigma: Array | float, taps: int) -> Array:
    """The matrix that blurs one axis, with the border reflected (the edge pixel is not repeated).

    Args:
        size: pixels on the axis.
        sigma: standard deviation in pixels, a scalar.
        taps: length of the kernel, odd, at most `2 * size - 1`.

    Returns:
        float32[size, size], rows summing to 1.

    Raises:
        BadInputError: `taps` is even or too long.
    """
    if taps % 2 == 0 or not 1 <= taps <= 2 * size - 1:
        raise BadInputError(f"taps={taps}: give an odd kernel length, 1 to {2 * size - 1} for {size} pixels.")

    def kernel(distance):
        return jnp.where(jnp.abs(distance) <= taps // 2, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)

    out, pixel = jnp.arange(size)[:, None], jnp.arange(size)[None]
    # pixel p is also seen mirrored at -p and at 2 (size - 1) - p
    left = jnp.where(pixel > 0, kernel(out + pixel), 0.0)
    right = jnp.where(pixel < size - 1, kernel(2 * (size - 1) - out - pixel), 0.0)
    total = kernel(jnp.arange(taps) - taps // 2).sum()
    return (kernel(out - pixel) + left + right) / total


def gaussian_blur(image: Array | np.ndarray, sigma: Array | float, taps: int) -> Array:
    """Blur both axes with a Gaussian cut at `taps` and renormalised.

    Args:
        image: float32[H, W, C].
        sigma: standard deviation in pixels, a scalar.
        taps: length of the kernel, odd.

    Returns:
        float32[H, W, C].

    Raises:
        BadInputError: `taps` is even or too long for the image.

    Reference:
        torchvision `transforms/_functional_tensor.py`, `gaussian_blur`.

    >>> print(gaussian_blur(jnp.eye(3)[..., None], 0.1, 3)[..., 0].diagonal())
    [1. 1. 1.]
    """
    height, width = image.shape[:2]
    columns = jnp.moveaxis(jnp.asarray(image), 0, 2)
    return blur_columns(columns, blur_matrix(height, sigma, taps), blur_matrix(width, sigma, taps))


def blur_columns(columns: Array, vertical: Array, horizontal: Array) -> Array:
    """Multiply [W, C, H] by a matrix on each axis; returns [H, W, C], which these matmuls give without a transpose."""
    high = jax.lax.Precision.HIGH
    columns = jnp.einsum("pw,wch->pch", horizontal, columns, precision=high)
    return jnp.einsum("oh,pch->opc", vertical, columns, precision=high)
