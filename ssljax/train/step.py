"""One training step: views, loss and gradient, optimiser, the method's own update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssljax import sharding
from ssljax.train.guard import admit
from ssljax.train.state import TrainState
from ssljax.types import Batch, Method


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    method: Method,
    views: Any,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, Any]]:
    """One update of everything in `state` from one global batch; pure.

    Where the loss or the gradient is not finite, parameters, `aux` and the optimiser's state stay as they were, to
    the last bit: only the step and the guard's counts move on.

    Args:
        state: the state after n updates.
        batch: arrays [B, ...] as the loader yields them, such as `{"image": uint8[B, H, W, C]}`.
        method: gives the loss.
        views: `(key, **batch) -> batch of the method`, drawn on the device.
        optimizer: of the parameters.

    Returns:
        The state after n + 1 updates and the method's metrics, scalars, with the gradient's global norm and the state's
        `guard`.
    """
    views_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    method_batch = views(views_key, **batch)
    grad_fn = jax.value_and_grad(method.loss, has_aux=True)
    (loss, (aux, metrics)), grads = grad_fn(state.params, state.aux, method_batch, loss_key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    aux = method.after_update(params, aux, state.step)
    grad_norm, step = optax.tree.norm(grads), state.step + 1
    guard, (params, aux, opt_state) = admit(
        state.guard,
        step,
        jnp.isfinite(loss) & jnp.isfinite(grad_norm),
        new=(params, aux, opt_state),
        old=(state.params, state.aux, state.opt_state),
    )
    state = dataclasses.replace(state, step=step, params=params, aux=aux, opt_state=opt_state, guard=guard)
    return state, metrics | {"grad_norm": grad_norm, "guard": guard}


def compile_step(
    method: Method, views: Any, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """`train_step` under jit: the given state is donated, the new one and the metrics are replicated."""
    step = functools.partial(train_step, method=method, views=views, optimizer=optimizer)
    return jax.jit(step, donate_argnums=0, out_shardings=sharding.replicated())
