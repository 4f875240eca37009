"""Losses as pure functions of arrays; needs jax alone."""

from ssljax.losses.contrastive import binary_contrastive, info_nce, info_nce_logits, l2_normalize, nt_xent

__all__ = ["binary_contrastive", "info_nce", "info_nce_logits", "l2_normalize", "nt_xent"]
