"""ShuffleBN's permutation of a batch over the devices and back: gathered on few, an exchange of equal shares on many.

The gathered form brings the whole batch to every device. In the exchange a device sends its own rows once, whatever
the number of devices: it deals them out, in an order of its own, in equal shares to a group of devices of which it is
one, and puts what it receives in another order of its own. Every permutation that is made so is as likely as any other.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import Array

DEVICES = 16  # from which on rows are exchanged
PARTNERS = 8  # among which a device deals out its rows, at least: on the paper's eight GPUs an eighth stays as well

Move = Callable[[Array], Array]


def permutation(key: Array, rows: int) -> tuple[Move, Move]:
    """A random permutation of a batch's rows over all devices of the present mesh, and its inverse.

    Args:
        key: PRNG key, the same on every device.
        rows: B, of the global batch.

    Returns:
        Two functions [B, ...] -> [B, ...] of arrays of any dtype, sharded or not, split over `data` afterwards. Both
        are differentiable and only move rows; the second undoes the first.

    Reference: arXiv 1911.05722, section 3.3; facebookresearch/moco `moco/builder.py`, `_batch_shuffle_ddp`.

    Differs from the paper: on `DEVICES` or more whose rows can be dealt out among `PARTNERS` or more the permutation is
        drawn from those that `exchange` makes; else from all, as in the official code.
    """
    devices = sharding.data_devices()
    if devices >= DEVICES and partners(devices, rows // devices) >= PARTNERS:
        orders = draw(key, devices, rows // devices)
        return functools.partial(exchange, orders=orders), functools.partial(exchange, orders=inverse(orders))
    order = jax.random.permutation(key, rows)
    back = jnp.argsort(order)
    return functools.partial(sharding.take_rows, indices=order), functools.partial(sharding.take_rows, indices=back)


def partners(devices: int, rows: int) -> int:
    """Among how many devices, itself included, a device deals out its `rows` rows: the most that get equal shares.

    >>> [partners(devices, 32) for devices in (8, 16, 64, 96, 33)]
    [8, 16, 32, 32, 1]
    """
    return math.gcd(devices, rows)


def draw(key: Array, devices: int, rows: int) -> Array:
    """Orders for `exchange`, each uniform: int32[devices, 2, rows], of a device's rows before it deals and after."""
    own = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), (devices, 2, rows))
    return jax.random.permutation(key, own, axis=2, independent=True)


def inverse(orders: Array) -> Array:
    """The orders of the exchange that undoes the one of `orders`."""
    # dealing is a transposition: done again it undoes itself
    return jnp.argsort(orders, axis=2)[:, ::-1]


def exchange(x: Array, orders: Array) -> Array:
    """The rows of `x` in `global_order(orders)`: an all-to-all that moves no row twice.

    Args:
        x: [N * r, ...] of any dtype, sharded or not.
        orders: int32[N, 2, r] for a mesh of N devices; the same on every device.

    Returns:
        [N * r, ...], split over `data`. Differentiable.
    """
    devices, _, rows = orders.shape
    group = partners(devices, rows)

    def deal(own: Array, order: Array) -> Array:
        before, after = order[0]
        shares = own[before].reshape(group, rows // group, *own.shape[1:])
        received = jax.lax.all_to_all(shares, sharding.DATA, 0, 0, axis_index_groups=_groups(devices, group))
        return received.reshape(own.shape)[after]

    split = P(sharding.DATA)
    return jax.shard_map(deal, in_specs=(split, split), out_specs=split)(*sharding.shard((x, orders)))


def global_order(orders: Array) -> Array:
    """int32[N * r]: which row of the global batch `exchange` puts in each place.

    >>> global_order(jnp.array([[[0, 1], [0, 1]], [[1, 0], [0, 1]]])).tolist()
    [0, 3, 1, 2]
    """
    devices, _, rows = orders.shape
    group = partners(devices, rows)
    held = jnp.arange(devices * rows, dtype=jnp.int32).reshape(devices, rows)
    shares = jnp.take_along_axis(held, orders[:, 0], 1).reshape(group, devices // group, group, rows // group)
    received = shares.swapaxes(0, 2).reshape(devices, rows)
    return jnp.take_along_axis(received, orders[:, 1], 1).ravel()


def _groups(devices: int, group: int) -> list[list[int]]:
    """The devices that deal among themselves, as far apart as can be.

    BatchNorm's groups are consecutive rows: where one spans devices these are neighbours, whose rows are to part.
    """
    apart = devices // group
    return [list(range(first, devices, apart)) for first in range(apart)]
