"""What an optimiser of ours is: optax's `init` and `update`, with the schedules inside them by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssljax.optim.schedules import Schedule, constant
from ssljax.types import Array, PyTree


class Optimizer(NamedTuple):
    """An `optax.GradientTransformation` that says what its schedules are.

    It goes wherever optax takes a transformation, such as into `optax.chain`.

    Attributes:
        init: params -> state.
        update: `(gradients, state, params) -> (updates, state)`; the updates are added to the parameters.
        schedules: name -> `step -> float32 scalar`, the step being `updates_made` before the update: "lr", and
            "weight_decay" where that is a schedule.
    """

    init: Callable[..., Any]
    update: Callable[..., tuple[Any, Any]]
    schedules: dict[str, Schedule]


def as_schedule(value: float | Schedule) -> Schedule:
    """The schedule itself, or a constant one."""
    return value if callable(value) else constant(value)


def scheduled(rule: optax.GradientTransformation, **schedules: float | Schedule) -> Optimizer:
    """The optimiser that computes what `rule` does; a float among the schedules is constant."""
    return Optimizer(rule.init, rule.update, {name: as_schedule(value) for name, value in schedules.items()})


def chain(*rules: optax.GradientTransformation | Optimizer) -> Optimizer:
    """`optax.chain`, which keeps the schedules of the optimisers among the rules.

    Args:
        *rules: transformations in the order in which the gradients pass through them.

    Returns:
        The chain, with the schedules of all its parts; of two with one name, the later one's.
    """
    given = {name: value for rule in rules for name, value in getattr(rule, "schedules", {}).items()}
    return scheduled(optax.chain(*rules), **given)  # type: ignore[arg-type]


def updates_made(opt_state: PyTree) -> Array | None:
    """How many updates an optimiser has made, by its own count.

    An update whose result is thrown away, because something in it was not finite, leaves the count as it was; the
    number of training steps goes on. The schedules are read at this count.

    Args:
        opt_state: the state of an optimiser of this package, of one of optax's, or of a chain of them.

    Returns:
        int32 scalar, the first field `count` of the state; None where there is none, as in `optax.sgd(0.1)`.

    >>> import optax
    >>> int(updates_made(optax.adam(0.1).init({"kernel": jnp.zeros(3)})))
    0
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        # a parameter named "count" stands behind a dict's key, and in a tree of moments, not of whole numbers
        name = getattr(path[-1], "name", None) if path else None
        if name == "count" and leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.integer):
            return leaf
    return None
