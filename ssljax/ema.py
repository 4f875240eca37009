"""The momentum encoder's update and its schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ssljax.types import Array, BadInputError, PyTree


def ema(target: PyTree, online: PyTree, momentum: Any) -> PyTree:
    """`momentum * target + (1 - momentum) * online`, leaf by leaf, computed in float32.

    Args:
        target: the moving average, any tree of arrays. Keep it in float32: in bfloat16 a step of .001
            rounds to nothing.
        online: a tree of the same structure. No gradient passes.
        momentum: scalar in [0, 1]; 1 keeps the target, 0 copies the online tree.

    Returns:
        A tree like `target`, in its dtypes; integer leaves (counters) are copied from `online`.

    Raises:
        BadInputError: a momentum outside [0, 1] (outside jit).

    Reference: arXiv 1911.05722, equation 2; facebookresearch/moco `moco/builder.py`.

    >>> ema({"w": jnp.ones(2)}, {"w": jnp.zeros(2)}, 0.75)["w"].tolist()
    [0.75, 0.75]
    """
    check_momentum(momentum)

    def leaf(old, new):
        if not jnp.issubdtype(old.dtype, jnp.inexact):
            return new
        wide = jnp.promote_types(old.dtype, jnp.float32)
        mixed = momentum * old.astype(wide) + (1 - momentum) * jax.lax.stop_gradient(new).astype(wide)
        return mixed.astype(old.dtype)

    return jax.tree.map(leaf, target, online)


def fixed_momentum(base: float, step: Any, total_steps: int) -> float:
    """`base` at every step (MoCo v1, v2); the arguments are those of `cosine_momentum`."""
    del step, total_steps
    return check_momentum(base)


def cosine_momentum(base: float, step: Any, total_steps: int) -> Array:
    """Momentum rising from `base` to 1 along half a cosine (BYOL, MoCo v3, DINO).

    Args:
        base: momentum at step 0, in [0, 1].
        step: optimiser step, from 0; past the end the momentum is 1.
        total_steps: the run's length in the unit of `step`.

    Returns:
        float32 scalar `1 - (1 - base) (cos(pi step / total_steps) + 1) / 2`.

    Raises:
        BadInputError: a base outside [0, 1], or no steps.

    Reference: arXiv 2006.07733, section 3.2; google-deepmind/deepmind-research `byol/utils/schedules.py`.

    >>> [round(float(cosine_momentum(0.5, step, 4)), 4) for step in (0, 2, 4)]
    [0.5, 0.75, 1.0]
    """
    check_momentum(base)
    if total_steps < 1:
        raise BadInputError(f"total_steps={total_steps}: give at least 1.")
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0.0, 1.0)
    return 1 - (1 - base) * (jnp.cos(np.pi * progress) + 1) / 2


def check_momentum(momentum: Any) -> Any:
    """Return the momentum unless it is known to lie outside [0, 1].

    Raises:
        BadInputError: it does. A value under jit cannot be inspected and passes.
    """
    if not isinstance(momentum, Tracer) and not 0 <= float(momentum) <= 1:
        raise BadInputError(f"momentum={momentum}: give a value in [0, 1].")
    return momentum
