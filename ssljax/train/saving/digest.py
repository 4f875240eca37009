"""Digests of 64 bits of an array's bits, which do not depend on its layout over devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jax.experimental import multihost_utils

from ssljax.types import Array

_SHARDED = "spread:"  # prefix of digests that devices compute, in manifests


def on_this_host(array: Any) -> bool:
    """Whether this process can read the whole array."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated


def digest(array: Any, like: str = "") -> str:
    """The digest of an array; every process that holds a part of it must call this.

    Args:
        array: NumPy's or jax's, of any dtype of 1, 2, 4 or 8 bytes; bits count, so -0.0 is not 0.0.
        like: a digest to compare with. It may be of the kind that devices compute for an array that no process holds
            as a whole (`sharded_sums`); the result is of the same kind.

    >>> digest(np.float32([1, 2])), digest(np.float32([2, 1]))
    ('4de8d78f7134f4b7', '69e0f7f8f6c16ba5')
    """
    if like.startswith(_SHARDED):
        return sharded_digest(sharded_sums(jnp.asarray(array)))
    return host_digest(
        np.asarray(array) if on_this_host(array) else multihost_utils.process_allgather(array, tiled=True)
    )


def host_digest(array: np.ndarray) -> str:
    """XXH3 of an array in host memory, 64 bits; runs at memory bandwidth and releases the GIL."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@jax.jit
def sharded_sums(array: Array) -> Array:
    """Two sums, uint32[2], of an array that is sharded over processes, computed on its devices.

    Each 4-byte word goes through a bijection of 32 bits that its row-major position modulo 2**32 chooses, and the
    results are added up, before and after further mixing. Sums do not depend on who adds which part.
    """
    array = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}"))
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    first = _mix(words.astype(jnp.uint32) ^ _mix(position))
    second = _mix(first ^ _mix(~position))
    return jnp.stack([jnp.sum(first, dtype=jnp.uint32), jnp.sum(second, dtype=jnp.uint32)])


def sharded_digest(sums: Array) -> str:
    """The digest made of `sharded_sums`; waits for them."""
    return _SHARDED + "".join(f"{int(part):08x}" for part in np.asarray(sums))


def _mix(h):
    # a bijection of 32 bits in which every bit moves every other
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))
