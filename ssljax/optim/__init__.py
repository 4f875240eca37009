"""Optimisers, learning-rate schedules and weight-decay masks."""

from ssljax.optim.masks import weight_mask
from ssljax.optim.optimizers import adamw, lars, sgd
from ssljax.optim.schedules import cosine, per_epoch, scaled_lr, sqrt_scaled_lr, step_decay

__all__ = [
    "adamw",
    "cosine",
    "lars",
    "per_epoch",
    "scaled_lr",
    "sgd",
    "sqrt_scaled_lr",
    "step_decay",
    "weight_mask",
]
