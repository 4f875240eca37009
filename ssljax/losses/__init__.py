"""Losses as pure functions of arrays; needs jax alone."""

from ssljax.losses.contrastive import (
    binary_contrastive,
    in_batch_info_nce,
    in_batch_logits,
    info_nce,
    info_nce_logits,
    l2_normalize,
    nt_xent,
)

__all__ = [
    "binary_contrastive",
    "in_batch_info_nce",
    "in_batch_logits",
    "info_nce",
    "info_nce_logits",
    "l2_normalize",
    "nt_xent",
]
