"""Transformations that treat parameters one by one: clipping, a delayed start, learning rates by depth."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssljax.optim.masks import Mask
from ssljax.types import Array, BadInputError, PyTree

# DINO's, added to the norm
EPSILON = 1e-6


class HoldState(NamedTuple):
    """State of `hold_updates`: how many updates were made, int32 scalar."""

    count: Array


def clip_per_tensor(limit: float) -> optax.GradientTransformation:
    """Shorten each parameter's gradient to a norm of `limit`, whatever the others' norms are.

    A gradient is multiplied by `limit / (norm + 1e-6)` where that is below 1. It goes before the optimiser:
    `optim.chain(clip_per_tensor(3.0), optim.adamw(...))`.

    Args:
        limit: the largest norm, above 0.

    Raises:
        BadInputError: a limit that is not positive.

    Reference: arXiv 2104.14294; facebookresearch/dino `utils.py`, `clip_gradients`.
    Differs from the official code where a model's parameters are cut otherwise: there query, key and value are one,
    and in a model that scans its layers all layers are one.

    >>> gradients = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([0.5])}
    >>> clipped, _ = clip_per_tensor(1.0).update(gradients, optax.EmptyState())
    >>> [[round(value, 4) for value in clipped[name].tolist()] for name in ("kernel", "bias")]
    [[0.6, 0.8], [0.5]]
    """
    if not limit > 0:
        raise BadInputError(f"limit={limit}: give a norm above 0, or leave the clipping out.")

    def clip(gradient):
        # in bfloat16 a sum of many squares stops growing
        norm = jnp.sqrt(jnp.sum(jnp.square(gradient.astype(jnp.float32))))
        return gradient * jnp.minimum(limit / (norm + EPSILON), 1.0).astype(gradient.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def hold_updates(mask: Mask, steps: int) -> optax.GradientTransformation:
    """Zero the updates of the masked parameters for the first updates of a run.

    DINO keeps the last layer of its projector at its initial values for the first epoch. It goes after the optimiser,
    so that weight decay is held as well: `optim.chain(optim.adamw(...), hold_updates(mask, pace.steps_per_epoch))`.

    Args:
        mask: a tree of booleans, such as the parameters' or a prefix of it, or a function that makes one of the
            updates; True is held, None is all.
        steps: updates from the first one on; 0 holds nothing.

    Raises:
        BadInputError: a negative number of steps.

    Reference: arXiv 2104.14294; facebookresearch/dino `main_dino.py` (`--freeze_last_layer`) and `utils.py`,
    `cancel_gradients_last_layer`.

    Differs from the official code:
        There the gradient is removed, and torch's optimiser passes over the parameter: its moments and the count of
        its bias correction start when it is released. Here the update is masked: moments and count go on from the
        first step, and the first update after the release is an average of the gradients seen.
    """
    if steps < 0:
        raise BadInputError(f"steps={steps}: give the number of updates to hold, 0 or more.")

    def init(params):
        del params
        return HoldState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        held = True if mask is None else mask(updates) if callable(mask) else mask

        def hold(part):
            return jax.tree.map(lambda leaf: jnp.where(state.count < steps, jnp.zeros_like(leaf), leaf), part)

        updates = jax.tree.map(lambda masked, part: hold(part) if masked else part, held, updates)
        return updates, HoldState(state.count + 1)

    return optax.GradientTransformation(init, update)


def layer_scales(depth_of: Callable[[str], int], layers: int, decay: float) -> optax.GradientTransformation:
    """Layer-wise learning rates: multiply each update by `decay ** (layers - depth)`.

    The deepest layer keeps its rate, and each layer below takes `decay` times that of the one above. It goes after
    the optimiser, so that the weight decay is scaled with the rate, as in torch's parameter groups:
    `optim.chain(optim.adamw(...), layer_scales(...))`.

    Args:
        depth_of: the layer of a parameter, from 0 to `layers`, by its path such as "backbone/block_3/mlp/kernel". MAE
            gives the embeddings 0, block i, counted from 0, i + 1, and the head `layers`.
        layers: the depth whose rate is not scaled; MAE's is the number of blocks + 1.
        decay: the ratio of one layer's rate to the next one's, above 0 and at most 1.

    Raises:
        BadInputError: a decay or, when the state is made, a depth outside its range.

    Reference: arXiv 2111.06377, table 9; facebookresearch/mae `util/lr_decay.py`, `param_groups_lrd`.

    >>> rule = layer_scales({"stem": 0, "head": 2}.__getitem__, layers=2, decay=0.5)
    >>> updates = {"stem": jnp.ones(()), "head": jnp.ones(())}
    >>> scaled, _ = rule.update(updates, rule.init(updates))
    >>> float(scaled["stem"]), float(scaled["head"])
    (0.25, 1.0)
    """
    if not 0 < decay <= 1:
        raise BadInputError(f"decay={decay}: give a ratio above 0 and at most 1.")

    def scale(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        depth = depth_of(name)
        if not 0 <= depth <= layers:
            raise BadInputError(f"depth_of gives {name} the layer {depth}: it must lie from 0 to layers={layers}.")
        return leaf * decay ** (layers - depth)

    def scaled(updates: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(scale, updates)

    def init(params):
        # a depth out of range shows here, before the first step
        jax.eval_shape(scaled, params)
        return optax.EmptyState()

    return optax.GradientTransformation(init, lambda updates, state, params=None: (scaled(updates), state))
