"""One training step: views, loss and gradient, optimiser, the method's own update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssljax import optim, sharding
from ssljax.data.resident import Resident, take
from ssljax.train import heap, layout
from ssljax.train.guard import admit
from ssljax.train.state import TrainState
from ssljax.types import Array, Batch, Method


def train_step(
    state: TrainState,
    batch: Batch | Resident,
    *,
    method: Method,
    views: Any,
    optimizer: optim.Optimizer,
) -> tuple[TrainState, dict[str, Any]]:
    """One update of everything in `state` from one global batch; pure.

    Where the loss, the gradient or the update is not finite, parameters, `aux` and the optimiser's state remain as they
    were, to the last bit: only the step and the guard's counts move on.

    A leaf that is sharded (`layout.shard_state`) is gathered for the loss, and its gradient split for the
    update, which each device makes on its part.

    Args:
        state: the state after n updates, in any layout.
        batch: arrays [B, ...] as the loader yields them, by name; or the set on the
            devices to draw them from.
        method: gives the loss.
        views: `(key, **batch) -> batch of the method`, drawn on the device.
        optimizer: of the parameters; any `optax.GradientTransformation` will do, one of `optim` also tells its
            schedules.

    Returns:
        The state after n + 1 updates, in the same layout, and the method's metrics, scalars, with the gradient's global
        norm, the schedules' values that this update used, such as `lr`, and the state's `guard`.
    """
    batch = take(batch, state.step + state.guard.shift)
    views_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    method_batch = views(views_key, **batch)
    grad_fn = jax.value_and_grad(method.loss, has_aux=True)
    whole = sharding.gather((state.params, state.aux))
    (loss, (aux, metrics)), grads = grad_fn(*whole, method_batch, loss_key, state.step)
    aux, grads = layout.reshard_like(aux, state.aux), layout.reshard_like(grads, state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, aux = method.after_update(params, aux, state.step)
    # what follows split parameters may lie whole itself
    params, aux = layout.reshard_like(params, state.params), layout.reshard_like(aux, state.aux)
    grad_norm, step = optax.tree.norm(grads), state.step + 1
    guard, (params, aux, opt_state) = admit(
        state.guard,
        step,
        jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(updates)),
        new=(params, aux, opt_state),
        old=(state.params, state.aux, state.opt_state),
    )
    logged = metrics | _scheduled(optimizer, state) | {"grad_norm": grad_norm, "guard": guard}
    after = dataclasses.replace(state, step=step, params=params, aux=aux, opt_state=opt_state, guard=guard)
    return layout.reshard_like(after, state), sharding.gather(logged)


def _scheduled(optimizer: optim.Optimizer, state: TrainState) -> dict[str, Array]:
    """Each schedule's value in the update that follows `state`."""
    schedules = getattr(optimizer, "schedules", {})
    if not schedules:
        return {}
    # the optimiser counts its own updates: discarded ones do not move its schedules on
    count = optim.updates_made(state.opt_state)
    count = state.step if count is None else count
    return {name: jnp.asarray(schedule(count), jnp.float32) for name, schedule in schedules.items()}


def compile_step(
    method: Method, views: Any, optimizer: optim.Optimizer
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """`train_step` under jit: the given state is donated, the new one has its layout, the metrics are replicated.

    Returns:
        `(state, batch, steps=1) -> (state, metrics of the last step)`; with `steps` the program makes so many updates,
        each with a batch that it draws from a `Resident`.
    """
    heap.trim_after_compiling()
    one = functools.partial(train_step, method=method, views=views, optimizer=optimizer)

    # profiles show the function's name
    def train(state: TrainState, batch: Batch | Resident, steps: int = 1) -> tuple[TrainState, dict[str, Any]]:
        return one(state, batch) if steps == 1 else _scanned(one, state, batch, steps)

    return jax.jit(train, donate_argnums=0, static_argnames="steps", compiler_options=_compiler_options())


def _compiler_options() -> dict[str, Any]:
    """On a CPU, donated leaves are updated in place; unasked, XLA copies those that two fusions read, as Adam's are."""
    return {"xla_cpu_copy_insertion_use_region_analysis": True} if sharding.platform() == "cpu" else {}


def _scanned(one: Any, state: TrainState, batch: Batch | Resident, steps: int) -> tuple[TrainState, dict[str, Any]]:
    def body(before: TrainState, _: None) -> tuple[TrainState, dict[str, Any]]:
        return one(before, batch)

    state, metrics = jax.lax.scan(body, state, length=steps)
    return state, jax.tree.map(lambda values: values[-1], metrics)
