"""Optimisers, learning-rate schedules and weight-decay masks."""

from ssljax.optim.bert import bert_adamw, in_phases, lamb, linear_with_warmup, polynomial_with_warmup
from ssljax.optim.masks import weight_mask
from ssljax.optim.optimizers import adamw, lars, sgd
from ssljax.optim.schedules import cosine, per_epoch, scaled_lr, sqrt_scaled_lr, step_decay

__all__ = [
    "adamw",
    "bert_adamw",
    "cosine",
    "in_phases",
    "lamb",
    "lars",
    "linear_with_warmup",
    "per_epoch",
    "polynomial_with_warmup",
    "scaled_lr",
    "sgd",
    "sqrt_scaled_lr",
    "step_decay",
    "weight_mask",
]
