"""64 bits that tell whether an array is, bit for bit, what it was; the same however it is laid out over devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jax.experimental import multihost_utils

from ssljax.types import Array

_SPREAD = "spread:"


def on_this_host(array: Any) -> bool:
    """Whether this process has all of the array."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated


def digest(array: Any, like: str = "") -> str:
    """The digest of an array; every process that has a part of it must call this.

    Args:
        array: NumPy's or jax's, of any dtype of 1, 2, 4 or 8 bytes; bits count, so -0.0 is not 0.0.
        like: an earlier digest of it. It may be of the kind that devices compute for an array of which no process
            has the whole (`spread`), and then so is the result.

    >>> digest(np.float32([1, 2])), digest(np.float32([2, 1]))
    ('4de8d78f7134f4b7', '69e0f7f8f6c16ba5')
    """
    if like.startswith(_SPREAD):
        return spread_text(spread(jnp.asarray(array)))
    return whole(np.asarray(array) if on_this_host(array) else multihost_utils.process_allgather(array, tiled=True))


def whole(array: np.ndarray) -> str:
    """XXH3's 64 bits of an array in this host's memory: as fast as memory is read, without the interpreter's lock."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@jax.jit
def spread(array: Array) -> Array:
    """Of an array that is spread over processes: two sums, uint32[2], on its devices; one program a shape and layout.

    Each 4-byte word goes through a bijection of 32 bits that its row-major position modulo 2**32 chooses, and the
    results are added up, before and after further mixing. Sums do not depend on who adds which part.
    """
    array = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}"))
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    first = _scatter(words.astype(jnp.uint32) ^ _scatter(position))
    second = _scatter(first ^ _scatter(~position))
    return jnp.stack([jnp.sum(first, dtype=jnp.uint32), jnp.sum(second, dtype=jnp.uint32)])


def spread_text(sums: Array) -> str:
    """The digest that `spread`'s sums are; waits for them."""
    return _SPREAD + "".join(f"{int(part):08x}" for part in np.asarray(sums))


def _scatter(h):
    # a bijection of 32 bits in which every bit moves every other
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))
