"""Encoders: ResNets, heads, and any `flax.linen` module through `from_linen`."""

from ssljax.models.from_linen import from_linen
from ssljax.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152

__all__ = ["from_linen", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
