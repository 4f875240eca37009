"""Optimisers, schedules over a run, weight-decay masks and transformations by parameter."""

from ssljax.optim.bert import bert_adamw, in_phases, lamb, linear_with_warmup, polynomial_with_warmup
from ssljax.optim.masks import weight_mask
from ssljax.optim.optimizers import adamw, lars, sgd
from ssljax.optim.pace import Pace
from ssljax.optim.per_parameter import clip_per_tensor, hold_updates, layer_scales
from ssljax.optim.scheduled import Optimizer, chain, updates_made
from ssljax.optim.schedules import constant, cosine, per_epoch, scaled_lr, sqrt_scaled_lr, step_decay

__all__ = [
    "Optimizer",
    "Pace",
    "adamw",
    "bert_adamw",
    "chain",
    "clip_per_tensor",
    "constant",
    "cosine",
    "hold_updates",
    "in_phases",
    "lamb",
    "lars",
    "layer_scales",
    "linear_with_warmup",
    "per_epoch",
    "polynomial_with_warmup",
    "scaled_lr",
    "sgd",
    "sqrt_scaled_lr",
    "step_decay",
    "updates_made",
    "weight_mask",
]
