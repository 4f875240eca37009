"""The whole of a training run's state as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ssljax import optim, sharding
from ssljax.train import layout
from ssljax.train.guard import Guard
from ssljax.types import Array, Batch, Method, PyTree


@struct.dataclass
class TrainState:
    """Everything a step reads and writes; all of it is checkpointed.

    Attributes:
        step: int32 scalar, the number of updates made.
        params: what the optimiser trains.
        aux: the method's other state: batch statistics, momentum encoder, queue.
        opt_state: the optimiser's.
        key: the run's key; step n draws from `fold_in(key, n)`.
        guard: counts of updates that were discarded, and the position in the data.
    """

    step: Array
    params: PyTree
    aux: PyTree
    opt_state: PyTree
    key: Array
    guard: Guard


def init_state(
    method: Method,
    optimizer: optim.Optimizer,
    views: Any,
    batch: Batch,
    seed: int,
    *,
    shard_state: bool = False,
) -> TrainState:
    """The state before the first step, replicated over the present mesh or, where it is large, split over it.

    Args:
        method: the pre-training method.
        optimizer: of its parameters, as in `step.train_step`.
        views: `(key, **batch) -> batch of the method`.
        batch: a batch as the loader yields it, or `jax.ShapeDtypeStruct`s of one.
        seed: of the initial weights and of every later random draw.
        shard_state: split what is as large as the parameters, as `layout.shard_state` does; the steps keep the layout.

    Raises:
        BadInputError: the batch does not divide over the devices, or is not what views or method take.
    """
    sharding.check_batch_size(jax.tree.leaves(batch)[0].shape[0])

    def init(key):
        init_key, run_key = jax.random.split(key)
        method_batch = views(run_key, **jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch))
        params, aux = method.init(init_key, method_batch)
        state = TrainState(jnp.zeros((), jnp.int32), params, aux, optimizer.init(params), run_key, Guard.new())
        return layout.shard_state(state) if shard_state else sharding.gather(state)

    return jax.jit(init)(jax.random.key(seed))
