"""The layout of arrays: one mesh axis `data`, batches sharded over it, state replicated.

Without a mesh every helper is the plain operation, so that the same code runs on one device unchanged. The axis is
Explicit: jax refuses what it cannot lay out by itself until a helper states what is meant (`methods/README.md`).
"""

import contextlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssljax.types import Array, BadInputError, PyTree

DATA = "data"


def make_mesh(devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh of one Explicit axis, `data`, over the first `devices` devices of all hosts (default: all).

    Raises:
        BadInputError: more devices are asked for than there are.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise BadInputError(f"devices={count}: this machine has {len(available)}; use a number from 1 to that.")
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Explicit,), devices=available[:count])


@contextlib.contextmanager
def use_mesh(mesh: jax.sharding.Mesh | None) -> Iterator[None]:
    """Make `mesh` the one that `shard`, `gather` and jit see; `None` changes nothing."""
    if mesh is None:
        yield
    else:
        with jax.set_mesh(mesh):
            yield


def data_devices() -> int:
    """How many devices a batch is split over under the present mesh (1 without one)."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(DATA, 1)


def has_mesh() -> bool:
    """Whether a mesh with a `data` axis is in use."""
    return DATA in dict(jax.sharding.get_abstract_mesh().shape)


def platform() -> str:
    """Of the present mesh's devices, which may only be described: "cpu", "gpu" or "tpu"; jax's own without a mesh."""
    return jax.sharding.get_mesh().devices.flat[0].platform if has_mesh() else jax.default_backend()


def check_batch_size(batch_size: int, name: str = "batch_size") -> None:
    """Refuse a global batch, set by the option `name`, that does not divide over the devices of the present mesh.

    Raises:
        BadInputError: the size is not a positive multiple of the number of devices.
    """
    devices = data_devices()
    if batch_size < 1:
        raise BadInputError(f"{name}={batch_size} is too small; use at least {devices}.")
    if batch_size % devices:
        below = batch_size - batch_size % devices
        near = f"{below} or {below + devices}" if below else devices
        raise BadInputError(
            f"{name}={batch_size} does not divide over the {devices} devices; "
            f"use a multiple of {devices}, such as {near}."
        )


def shard(x: PyTree) -> PyTree:
    """Split the leading axis of every leaf over `data` (inside or outside jit); the identity without a mesh."""
    return jax.tree.map(lambda leaf: jax.reshard(leaf, P(DATA)), x) if has_mesh() else x


def gather(x: PyTree) -> PyTree:
    """All devices' rows on every device, in order; differentiable; the identity without a mesh."""
    return jax.tree.map(lambda leaf: jax.reshard(leaf, P()), x) if has_mesh() else x


def take_rows(x: Array, indices: Array) -> Array:
    """Rows `indices` of `x` from whichever device holds them, split over `data` again.

    Args:
        x: [B, ...], sharded or not.
        indices: int[N], the same on every device.

    Returns:
        [N, ...]. Under a mesh this is an all-gather followed by a local selection.
    """
    if not has_mesh():
        return x[indices]
    return gather(x).at[indices].get(out_sharding=P(DATA, *(None,) * (x.ndim - 1)))


def batch_product(x: Array, y: Array) -> Array:
    """`x.T @ y`, summed over the global batch: each device multiplies its own rows, one all-reduce adds them up.

    Args:
        x: [B, D], sharded or not.
        y: [B, E], the same rows.

    Returns:
        [D, E], the same on every device; float32 (float64 for float64) at full precision, as the losses have it. In a
        `shard_map`, which sees one device's rows, their product alone: add it up with `jax.lax.psum`.
    """
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    # the accelerators' default for float32 is a bfloat16 or TF32 product
    return jnp.einsum("bd,be->de", x, y, precision=jax.lax.Precision.HIGHEST, out_sharding=replicated())


def reshape_rows(x: Array, shape: Sequence[int]) -> Array:
    """Each row of `x` in another shape, the rows laid out as before.

    A plain reshape splits or merges one axis of a sharded array; this one any number at once.

    Args:
        x: [B, ...], sharded or not.
        shape: of a row; one entry may be -1.

    Returns:
        [B, *shape].
    """
    return jnp.reshape(x, (x.shape[0], *shape), out_sharding=_rows_of(x))


def patches(images: Array, size: int) -> Array:
    """Square patches that do not overlap, in MAE's order.

    Args:
        images: [B, H, W, C], sharded or not.
        size: p, the side of a patch in pixels; it divides H and W.

    Returns:
        [B, H/p * W/p, p * p * C]: patches row by row, the pixels of one row by row, channels last. A patch times a
        `[p, p, C, D]` kernel reshaped to `[p * p * C, D]` is the convolution of a ViT's patch embedding.

    Raises:
        BadInputError: `size` does not divide the height or the width.

    Reference: arXiv 2111.06377; facebookresearch/mae `models_mae.py`, `patchify`: `nchpwq->nhwpqc` of `[B, C, H, W]`.

    >>> patches(jnp.arange(16).reshape(1, 4, 4, 1), 2)[0].tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    """
    height, width, channels = images.shape[1:]
    if size < 1 or height % size or width % size:
        raise BadInputError(f"size={size} does not divide images of {height} x {width}; use a patch size that does.")
    grid = reshape_rows(images, (height // size, size, width // size, size, channels))
    return reshape_rows(grid.transpose(0, 1, 3, 2, 4, 5), (-1, size * size * channels))


def rows_like(values: Array, x: Array) -> Array:
    """One copy of `values` for each row of `x`, laid out as these: a class token or a mask token beside tokens.

    Args:
        values: [1, ...], the same on every device.
        x: [B, ...] of any rank and dtype; only its rows matter.

    Returns:
        [B, ...] of the dtype of `values`, sharded where `x` is. Its gradient in `values` sums over the global batch.

    Raises:
        BadInputError: the leading axis of `values` is not 1.
    """
    if values.shape[:1] != (1,):
        raise BadInputError(f"values has shape {values.shape}; give one row, [1, ...].")
    return jnp.broadcast_to(values, (x.shape[0], *values.shape[1:]), out_sharding=_rows_of(x))


def _rows_of(x: Array) -> NamedSharding | None:
    """The layout of the leading axis of `x`, all others whole; None for an array that is on no mesh."""
    layout = jax.typeof(x).sharding
    return None if layout.mesh.empty else NamedSharding(layout.mesh, P(*layout.spec[:1]))


def data_sharding() -> NamedSharding | None:
    """The sharding of a batch under the present mesh; None without one."""
    return NamedSharding(jax.sharding.get_mesh(), P(DATA)) if has_mesh() else None


def replicated() -> P | None:
    """The state's layout for jit's `out_shardings`, everything on every device; None without a mesh."""
    return P() if has_mesh() else None


def replicated_sharding() -> NamedSharding | None:
    """The sharding of the state under the present mesh, for arrays made outside jit; None without one."""
    return NamedSharding(jax.sharding.get_mesh(), P()) if has_mesh() else None


def shard_batch(batch: dict[str, np.ndarray]) -> dict[str, Array]:
    """This process's rows of a global batch -> the global batch, sharded over `data`.

    Args:
        batch: arrays [B / number of processes, ...].

    Returns:
        The same names with global arrays [B, ...].
    """
    sharding = data_sharding()
    if sharding is None:
        return jax.tree.map(jnp.asarray, batch)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
