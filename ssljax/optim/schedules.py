"""Learning rates as functions of the step, and the rules that scale them with the batch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssljax.types import Array, BadInputError

Schedule = Callable[[Any], Array]


def cosine(base_lr: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from `base_lr` to `final`, after a linear warm-up from 0.

    Args:
        base_lr: the learning rate at the end of the warm-up.
        total_steps: where `final` is reached, warm-up included; it stays there.
        warmup_steps: length of the warm-up: the rate is 0 at step 0 and `base_lr` at step `warmup_steps`.
        final: the last learning rate.

    Returns:
        step -> float32 scalar. Steps count from 0 and may be epochs (`per_epoch`).

    Raises:
        BadInputError: a warm-up that is negative or leaves no step for the cosine.

    Reference: arXiv 1608.03983, equation 5; facebookresearch/moco-v3 `main_moco.py` (warm-up).

    >>> schedule = cosine(1.0, total_steps=4, warmup_steps=2)
    >>> [round(float(schedule(step)), 4) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    if not 0 <= warmup_steps < total_steps:
        raise BadInputError(f"warmup_steps={warmup_steps}: it must be 0 or more and below total_steps={total_steps}.")

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        decayed = final + (base_lr - final) * (1 + jnp.cos(np.pi * progress)) / 2
        return jnp.where(step < warmup_steps, base_lr * step / max(warmup_steps, 1), decayed)

    return schedule


def step_decay(base_lr: float, milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """`base_lr` times `factor` for every milestone reached.

    Args:
        base_lr: the first learning rate.
        milestones: the steps from which on a further factor applies.
        factor: what each milestone multiplies by.

    Returns:
        step -> float32 scalar. Milestones in epochs go with `per_epoch`.

    Reference: facebookresearch/moco `main_moco.py`, `adjust_learning_rate`.

    >>> schedule = per_epoch(step_decay(1.0, [1, 2], 0.5), steps_per_epoch=2)
    >>> [float(schedule(step)) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    rates = np.array([base_lr * factor**passed for passed in range(len(milestones) + 1)], np.float32)
    limits = np.array(sorted(milestones), np.int32)

    def schedule(step):
        passed = jnp.sum(jnp.asarray(step) >= limits)
        return jnp.asarray(rates)[passed]

    return schedule


def per_epoch(schedule: Schedule, steps_per_epoch: int) -> Schedule:
    """Hold a schedule of epochs constant within each epoch, as MoCo v1 and v2 do.

    Args:
        schedule: epoch -> value.
        steps_per_epoch: optimiser steps in an epoch.

    Returns:
        step -> value at epoch `step // steps_per_epoch`.

    Raises:
        BadInputError: an epoch without steps.
    """
    if steps_per_epoch < 1:
        raise BadInputError(f"steps_per_epoch={steps_per_epoch}: an epoch needs at least one step.")
    return lambda step: schedule(step // steps_per_epoch)


def constant(value: float) -> Schedule:
    """`value` at every step, a float32 scalar.

    >>> float(constant(0.5)(7))
    0.5
    """
    return lambda step: jnp.asarray(value, jnp.float32)


def scaled_lr(base: float, batch_size: int, reference: int = 256) -> float:
    """The linear rule: `base` is meant for batches of `reference`.

    Reference: arXiv 1706.02677, section 2.1.

    >>> scaled_lr(0.3, 4096)
    4.8
    """
    return base * batch_size / reference


def sqrt_scaled_lr(base: float, batch_size: int, reference: int = 1) -> float:
    """The square-root rule; SimCLR's .075 is meant for batches of 1.

    Reference: arXiv 2002.05709, appendix B.1; google-research/simclr `model.py`.

    >>> round(sqrt_scaled_lr(0.075, 4096), 6)
    4.8
    """
    return base * math.sqrt(batch_size / reference)
