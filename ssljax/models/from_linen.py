"""A `flax.linen` module as an `Encoder`: two pure functions over explicit parameters and batch statistics."""

import functools
import inspect

import jax
from flax import linen as nn

from ssljax.types import BadInputError, Encoder

COLLECTIONS = {"params", "batch_stats"}


def from_linen(module: nn.Module) -> Encoder:
    """Make an encoder of a linen module.

    Args:
        module: called as `module(*inputs, train=...)`, or as `module(*inputs)` if it has no `train` argument. Its
            state may be `params` and `batch_stats`; dropout draws from the rng `dropout`.

    Returns:
        An `Encoder`. `init` initialises in eval mode, under jit (so that no forward pass is computed). `apply` returns
        new statistics with `train=True` and the given ones otherwise; `key` seeds dropout and may be left out by a
        module without any.

    Raises:
        BadInputError: the module has state in another collection (in `init`).

    >>> encoder = from_linen(nn.Dense(3))
    >>> params, stats = encoder.init(jax.random.key(0), jax.numpy.ones((2, 5)))
    >>> outputs, stats = encoder.apply(params, stats, jax.numpy.ones((2, 5)), train=True)
    >>> outputs.shape, stats
    ((2, 3), {})
    """
    takes_train = _takes_train(module)

    def mode(train):
        return {"train": train} if takes_train else {}

    def init(key, *inputs):
        variables = jax.jit(functools.partial(module.init, **mode(False)))(key, *inputs)
        _check_collections(module, variables)
        return variables.get("params", {}), variables.get("batch_stats", {})

    def apply(params, stats, *inputs, train, key=None):
        variables = {"params": params, "batch_stats": stats}
        rngs = None if key is None else {"dropout": key}
        if not train:
            return module.apply(variables, *inputs, rngs=rngs, **mode(train)), stats
        outputs, updated = module.apply(variables, *inputs, rngs=rngs, mutable=["batch_stats"], **mode(train))
        return outputs, updated.get("batch_stats", stats)

    return Encoder(init, apply)


def _takes_train(module: nn.Module) -> bool:
    return "train" in inspect.signature(module.__call__).parameters


def _check_collections(module: nn.Module, variables) -> None:
    others = sorted(set(variables) - COLLECTIONS)
    if others:
        raise BadInputError(
            f"{type(module).__name__} keeps state in {others[0]!r}: an encoder's state is 'params' and 'batch_stats'; "
            "move it there."
        )
