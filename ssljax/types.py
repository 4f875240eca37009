"""The two contracts: an `Encoder` maps inputs to outputs, a `Method` turns encoders into a pre-training loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
Batch = dict[str, Any]  # arrays, or their shapes, by name; the leading axis is the global batch


class Encoder(NamedTuple):
    """A model as two pure functions.

    Attributes:
        init: `(key, *inputs) -> (params, stats)`; `stats` are batch statistics, `{}` when there are none.
        apply: `(params, stats, *inputs, train, key=None) -> (outputs, stats)`; `key` seeds
            dropout and drop path.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Any, PyTree]]


class Method(NamedTuple):
    """A self-supervised method as five pure functions; all of its state is in `params` and `aux`.

    Attributes:
        init: `(key, batch) -> (params, aux)`. `batch` is what the views return.
        loss: `(params, aux, batch, key, step) -> (scalar, (aux, metrics))`, differentiated in `params`. `step` is an
            int32 scalar, the number of updates made before this one; `key` is this step's.
        after_update: `(params, aux, step) -> (params, aux)`, run after the optimiser's update: the momentum encoder's
            average, or a projection such as normalised prototypes.
        features: `(params, aux, inputs) -> {name: [B, D]}` in eval mode, what evaluation reads; the names are the
            method's.
        encoder: `(params, aux) -> (params, stats)` of the encoder that is exported and embedded with, a student's or
            a teacher's.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    loss: Callable[..., tuple[Array, tuple[PyTree, dict[str, Array]]]]
    after_update: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]
    features: Callable[[PyTree, PyTree, Any], dict[str, Array]]
    encoder: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


class BadInputError(ValueError):
    """Invalid input; the message is one sentence that names the option or file, its value and what to do."""


def chain(**parts: Encoder) -> Encoder:
    """Feed each encoder's output to the next.

    Args:
        **parts: encoders in order, such as `backbone=..., projector=...`.

    Returns:
        An encoder whose params and stats are dicts with a part's name as key and whose output is the last part's.
    """

    def init(key, *inputs):
        params, stats = {}, {}
        for name, part in parts.items():
            key, part_key = jax.random.split(key)
            params[name], stats[name] = part.init(part_key, *inputs)
            outputs, _ = part.apply(params[name], stats[name], *inputs, train=False)
            inputs = (outputs,)
        return params, stats

    def apply(params, stats, *inputs, train, key=None):
        outputs, new_stats = None, {}
        for name, part in parts.items():
            if key is not None:
                key, part_key = jax.random.split(key)
            else:
                part_key = None
            outputs, new_stats[name] = part.apply(params[name], stats[name], *inputs, train=train, key=part_key)
            inputs = (outputs,)
        return outputs, new_stats

    return Encoder(init, apply)
