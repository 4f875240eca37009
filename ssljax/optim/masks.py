"""Which parameters weight decay and LARS's trust ratio apply to."""

from collections.abc import Callable

import jax

from ssljax.types import PyTree

# a tree of booleans, a function that makes one of the parameters, or None for all
Mask = PyTree | Callable[[PyTree], PyTree] | None

UNDECAYED = ("bias", "scale")


def weight_mask(params: PyTree) -> PyTree:
    """True for kernels and embeddings, False for biases and the scales of normalisation layers.

    A leaf named `bias` or `scale` is False whatever its shape: flax's attention biases are
    [heads, D / heads]. Without names, a leaf of at most one axis is False.

    Args:
        params: a tree of arrays, or of anything with `ndim`.

    Returns:
        The same tree with booleans, as optax's masks want it.

    >>> import numpy as np
    >>> weight_mask({"dense": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}})
    {'dense': {'bias': False, 'kernel': True}}
    """

    def leaf(path, value):
        name = getattr(path[-1], "key", getattr(path[-1], "name", None)) if path else None
        return value.ndim > 1 and name not in UNDECAYED

    return jax.tree_util.tree_map_with_path(leaf, params)
