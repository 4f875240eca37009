"""A state as named arrays: the host's copy that the next step cannot overwrite, and the verified way back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ssljax.train.hosts import agreement
from ssljax.train.saving import manifest, store
from ssljax.train.saving.digest import digest, on_this_host, spread, spread_text
from ssljax.types import Array


class Held(NamedTuple):
    """What `hold` returns.

    Attributes:
        arrays: by name, NumPy's; on the devices, where a leaf is spread over several processes.
        sums: the digests of the latter, by name.
    """

    arrays: dict[str, Any]
    sums: dict[str, Array]


def hold(arrays: dict[str, Array]) -> Held:
    """Copy arrays to the host; returns when the copy is there.

    On a CPU the copy is a view, and jax gives the step a new buffer instead of the donated one.
    """
    parts = {name: array for name, array in arrays.items() if not on_this_host(array)}
    here = {name: array for name, array in arrays.items() if name not in parts}
    for array in here.values():
        array.copy_to_host_async()
    sums = {name: spread(array) for name, array in parts.items()}
    copies = {name: jnp.copy(array) for name, array in parts.items()}
    return Held({name: np.asarray(array) for name, array in here.items()} | copies, sums)


def described(held: Held) -> dict[str, list[str]]:
    """Name -> [dtype and shape, digest] of every leaf."""
    return {
        name: [manifest.kind(array), spread_text(held.sums[name]) if name in held.sums else digest(array)]
        for name, array in held.arrays.items()
    }


def first_change(arrays: dict[str, Array], leaves: dict[str, list[str]]) -> str:
    """The name of the first array that is not what `described` has said of it; "" if none."""
    changed = [name for name, array in arrays.items() if digest(array, like=leaves[name][1]) != leaves[name][1]]
    return changed[0] if changed else ""


def read(path: epath.Path, like: Any) -> tuple[Any, str]:
    """What was saved in a step's directory, verified, or what is wrong with it; the same on every process.

    Args:
        path: the directory.
        like: only its structure, shapes, dtypes and shardings are used.

    Returns:
        (the tree, "") or (None, the damage).

    Raises:
        BadInputError: the leaves have other names, shapes or dtypes than those of `like`.
    """
    wanted, arrays, body, trouble = flatten(like), {}, {}, ""
    try:
        body = manifest.read(path)
        manifest.refuse_misfit(path, body, wanted)
        manifest.check_files(path, body)
    except manifest.DamageError as error:
        trouble = str(error)
    if trouble := agreement.first_text(trouble):
        return None, trouble
    try:
        arrays = store.read(path, wanted)
    except Exception as error:
        trouble = f"orbax cannot read it: {manifest.reason(error)}"
    if trouble := agreement.first_text(trouble):
        return None, trouble
    changed = first_change(arrays, body["leaves"])
    if trouble := agreement.first_text(f"{changed} is not as it was saved" if changed else ""):
        return None, trouble
    return unflatten(arrays, like), ""


def flatten(tree: Any) -> dict[str, Array]:
    """Path -> array, whatever kinds of nodes the tree is made of; typed random keys as the integers they consist of.

    >>> list(flatten({"a": [jnp.ones(2), jnp.zeros(3)]}))
    ['a/0', 'a/1']
    """
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(map(_name, path)): _array(leaf) for path, leaf in found}


def unflatten(arrays: Mapping[str, Array], like: Any) -> Any:
    """The tree that `flatten` took apart; `like` has its structure and its keys."""

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
