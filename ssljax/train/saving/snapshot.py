"""A train state as named arrays: copied to the host for saving, verified when it is restored."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ssljax.train.buckets import error_text
from ssljax.train.hosts import agreement
from ssljax.train.saving import manifest, store
from ssljax.train.saving.digest import digest, on_this_host, sharded_digest, sharded_sums
from ssljax.types import Array


class Snapshot(NamedTuple):
    """A copy of the state that the next step cannot overwrite.

    Attributes:
        arrays: by name; NumPy's, or on the devices where a leaf is sharded over several processes.
        sums: `digest.sharded_sums` of the latter, by name.
    """

    arrays: dict[str, Any]
    sums: dict[str, Array]


def copy_to_host(arrays: dict[str, Array]) -> Snapshot:
    """Copy arrays to the host; returns when the copy is complete.

    On a CPU the copy is a view, and jax gives the step a new buffer instead of the donated one.
    """
    sharded = {name: array for name, array in arrays.items() if not on_this_host(array)}
    here = {name: array for name, array in arrays.items() if name not in sharded}
    for array in here.values():
        array.copy_to_host_async()
    sums = {name: sharded_sums(array) for name, array in sharded.items()}
    copies = {name: jnp.copy(array) for name, array in sharded.items()}
    return Snapshot({name: np.asarray(array) for name, array in here.items()} | copies, sums)


def describe(snapshot: Snapshot) -> dict[str, list[str]]:
    """Name -> [dtype and shape, digest] of every leaf."""
    sums = snapshot.sums
    return {
        name: [manifest.dtype_and_shape(array), sharded_digest(sums[name]) if name in sums else digest(array)]
        for name, array in snapshot.arrays.items()
    }


def first_mismatch(arrays: dict[str, Array], leaves: dict[str, list[str]]) -> str:
    """The name of the first array whose digest differs from that in `leaves`, see `describe`; "" if none does."""
    mismatch = [name for name, array in arrays.items() if digest(array, like=leaves[name][1]) != leaves[name][1]]
    return mismatch[0] if mismatch else ""


def read(path: epath.Path, like: Any) -> tuple[Any, str]:
    """Read and verify the checkpoint in a step's directory; the same result on every process.

    Args:
        path: the step's directory.
        like: only its structure, shapes, dtypes and shardings are used.

    Returns:
        (the tree, "") or (None, what is damaged).

    Raises:
        BadInputError: names, shapes or dtypes of the leaves differ from those of `like`.
    """
    wanted, arrays, body, damage = flatten(like), {}, {}, ""
    try:
        body = manifest.read(path)
        manifest.check_compatible(path, body, wanted)
        manifest.check_files(path, body)
    except manifest.DamagedError as error:
        damage = str(error)
    if damage := agreement.first_nonempty_text(damage):
        return None, damage
    try:
        arrays = store.read(path, wanted)
    except Exception as error:
        damage = f"orbax cannot read it: {error_text(error)}"
    if damage := agreement.first_nonempty_text(damage):
        return None, damage
    mismatch = first_mismatch(arrays, body["leaves"])
    if damage := agreement.first_nonempty_text(f"{mismatch} has changed since it was saved" if mismatch else ""):
        return None, damage
    return unflatten(arrays, like), ""


def flatten(tree: Any) -> dict[str, Array]:
    """Path -> array, whatever kinds of nodes the tree is made of; typed PRNG keys as their key data.

    >>> list(flatten({"a": [jnp.ones(2), jnp.zeros(3)]}))
    ['a/0', 'a/1']
    """
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(map(_name, path)): _array(leaf) for path, leaf in found}


def unflatten(arrays: Mapping[str, Array], like: Any) -> Any:
    """The inverse of `flatten`; `like` has the tree's structure and its typed keys."""

    def one(path, model):
        array = arrays["/".join(map(_name, path))]
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(model)) if _is_key(model) else array

    return jax.tree_util.tree_map_with_path(one, like)


def _name(entry: Any) -> str:
    return str(next(getattr(entry, field) for field in ("key", "name", "idx") if hasattr(entry, field)))


def _array(leaf: Any) -> Array:
    if not isinstance(leaf, jax.Array):
        return jnp.array(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
