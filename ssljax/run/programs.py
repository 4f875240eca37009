"""The programs of a run: made once, traced before anything is compiled or written, so that misfits are refused."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ssljax import sharding
from ssljax.optim import Optimizer
from ssljax.run.config import RunConfig
from ssljax.run.task import Task
from ssljax.train.state import TrainState, init_state
from ssljax.train.step import compile_step
from ssljax.types import BadInputError, Batch, Method

if TYPE_CHECKING:
    from ssljax.run.experiment import Experiment


class Programs(NamedTuple):
    """The compiled functions of a run.

    Attributes:
        init: `() -> state` before the first step.
        step: as `train.step.compile_step` returns it.
    """

    init: Callable[[], TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Any]]]


def compile_programs(
    config: RunConfig, experiment: "Experiment", task: Task, method: Method, optimizer: Optimizer
) -> Programs:
    """The functions of a run under jit; they are compiled when they are first called."""

    def init(seed):
        first, sharded = task.batch_shapes[0], config.shard_state
        return init_state(method, optimizer, experiment.views, first, seed, shard_state=sharded)

    # an argument, so that a program serves every seed; as jax.random.key takes those of over 31 bits
    seed = np.int64(config.seed)
    return Programs(functools.partial(jax.jit(init), seed), compile_step(method, experiment.views, optimizer))


def check(programs: Programs, task: Task, method: Method) -> None:
    """Trace a step of each shape, and the features, without compiling, so that misfits are refused within seconds.

    jax keeps what it traces, so the run does not trace its programs once more.

    Raises:
        BadInputError: from the part that does not fit.
    """

    def read(params, aux, inputs):
        params, aux = sharding.gather((params, aux))
        return method.features(params, aux, sharding.shard(inputs)), method.encoder(params, aux)

    state = jax.eval_shape(programs.init)
    for batch in task.batch_shapes:
        sharding.check_batch_size(jax.tree.leaves(batch)[0].shape[0])
        jax.eval_shape(programs.step, state, _split(batch))
    if task.inputs is not None:
        found, _ = jax.eval_shape(read, state.params, state.aux, task.inputs)
        for name in task.features:
            if name not in found:
                raise BadInputError(
                    f"the evaluation reads the features {name!r}, and the method has {', '.join(found)}; "
                    "name one of these where the recipe says how it is evaluated."
                )


def _split(batch: Batch) -> Batch:
    """Shapes of a batch as the loader lays it out."""
    layout = sharding.data_sharding()
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout), batch)
