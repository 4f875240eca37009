"""ResNets as torchvision has them (v1.5), from images to pooled features."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.cpu.convolution import conv_general_dilated
from ssljax.models.from_linen import from_linen
from ssljax.models.norm import BatchNorm
from ssljax.types import Array, BadInputError, Encoder

STEMS = ("imagenet", "cifar")
EXPANSION = 4


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with the stride in the 3x3.

    Attributes:
        width: number of channels inside; a bottleneck's output has four times that number.
        stride: stride of the block, 1 or 2.
        bottleneck: which of the two kinds.
        groups: slices of the batch in each BatchNorm.
        dtype: dtype of the computation.
        zero_init: start the last BatchNorm's scale at 0, so that the block starts as its shortcut.
    """

    width: int
    stride: int
    bottleneck: bool
    groups: int
    dtype: Any
    zero_init: bool

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), width or 4 width]."""
        norm = functools.partial(BatchNorm, groups=self.groups, dtype=self.dtype)
        last = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        out = self.width * (EXPANSION if self.bottleneck else 1)
        plan = [(self.width, 3, self.stride), (out, 3, 1)]
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1)]
        y = x
        for i, (features, kernel, stride) in enumerate(plan, 1):
            y = _conv(features, kernel, stride, self.dtype, f"conv{i}")(y)
            y = norm(scale_init=last if i == len(plan) else nn.initializers.ones, name=f"bn{i}")(y, train=train)
            y = nn.relu(y) if i < len(plan) else y
        if x.shape[-1] != out or self.stride != 1:
            x = _conv(out, 1, self.stride, self.dtype, "downsample_conv")(x)
            x = norm(name="downsample_bn")(x, train=train)
        return nn.relu(y + x)


class ResNet(nn.Module):
    """The whole network; the arguments are those of `resnet`."""

    stage_sizes: tuple[int, ...]
    bottleneck: bool
    stem: str
    width: int
    groups: int
    dtype: Any
    zero_init_residual: bool

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[B, h, w, C] -> float32 [B, D]."""
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = _conv(self.width, kernel, stride, self.dtype, "conv1")(x)
        x = nn.relu(BatchNorm(self.groups, dtype=self.dtype, name="bn1")(x, train=train))
        if self.stem == "imagenet":
            x = _max_pool(x)
        for stage, blocks in enumerate(self.stage_sizes):
            for i in range(blocks):
                x = Block(
                    width=self.width * 2**stage,
                    stride=2 if stage and not i else 1,
                    bottleneck=self.bottleneck,
                    groups=self.groups,
                    dtype=self.dtype,
                    zero_init=self.zero_init_residual,
                    name=f"layer{stage + 1}_{i}",
                )(x, train=train)
        return jnp.mean(x, (1, 2), dtype=jnp.float32)


def _max_pool(x: Array) -> Array:
    """3x3 windows, stride 2, padding 1: the maximum of nine shifted slices.

    The gradient of a reduce-window is several times slower on CPUs. It gives a tie's gradient to one input, this one
    shares it; after a ReLU ties are zeros, through which none passes.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    slices = [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.maximum, slices)


def _conv(features: int, kernel: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        # symmetric, as torch pads; 'SAME' is not for stride 2
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def resnet(
    stage_sizes: Sequence[int],
    *,
    bottleneck: bool = False,
    stem: str = "imagenet",
    width: int = 64,
    groups: int = 1,
    dtype: Any = jnp.float32,
    zero_init_residual: bool = False,
) -> Encoder:
    """A ResNet of any depth and width, without its classifier.

    Args:
        stage_sizes: the number of blocks of each stage; every stage after the first halves the resolution.
        bottleneck: blocks of 1x1, 3x3, 1x1 (ResNet-50 and deeper) instead of two 3x3.
        stem: "imagenet" (7x7 of stride 2, then max-pool of stride 2) or "cifar" (3x3 of stride 1, no pool).
        width: channels of the stem and the first stage; each stage doubles them.
        groups: slices of the batch that BatchNorm treats apart in training (`models.norm.BatchNorm`).
        dtype: dtype of the computation, such as `jnp.bfloat16`; parameters and statistics are float32.
        zero_init_residual: start each block's last BatchNorm at 0, so that blocks start as their shortcuts.

    Returns:
        An `Encoder` from images float [B, h, w, C], any number of channels, to globally averaged features float32
        [B, D]: D = width * 2^(stages - 1), times 4 with bottlenecks.

    Raises:
        BadInputError: an unknown stem, or no blocks in a stage.

    Reference: arXiv 1512.03385, table 1; pytorch/vision `torchvision/models/resnet.py`: stride in the 3x3 (v1.5),
        kaiming-normal (fan out) convolutions. The cifar stem is that of SimCLR, arXiv 2002.05709, appendix B.9.

    >>> import jax
    >>> tiny = resnet((1, 1), stem="cifar", width=8)
    >>> shapes = jax.eval_shape(tiny.init, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
    >>> jax.eval_shape(lambda p, s: tiny.apply(p, s, jnp.zeros((2, 8, 8, 1)), train=False)[0], *shapes).shape
    (2, 16)
    """
    if stem not in STEMS:
        raise BadInputError(f"stem={stem!r}: use {' or '.join(map(repr, STEMS))}.")
    if not stage_sizes or min(stage_sizes) < 1:
        raise BadInputError(f"stage_sizes={tuple(stage_sizes)}: give at least one block per stage.")
    return from_linen(
        ResNet(
            stage_sizes=tuple(stage_sizes),
            bottleneck=bottleneck,
            stem=stem,
            width=width,
            groups=groups,
            dtype=dtype,
            zero_init_residual=zero_init_residual,
        )
    )


def resnet18(*, stage_sizes: Sequence[int] | None = None, **options: Any) -> Encoder:
    """ResNet-18, 512 features; `options` are those of `resnet`."""
    return resnet(stage_sizes or (2, 2, 2, 2), **options)


def resnet34(*, stage_sizes: Sequence[int] | None = None, **options: Any) -> Encoder:
    """ResNet-34, 512 features; `options` are those of `resnet`."""
    return resnet(stage_sizes or (3, 4, 6, 3), **options)


def resnet50(*, stage_sizes: Sequence[int] | None = None, **options: Any) -> Encoder:
    """ResNet-50, 2048 features; `options` are those of `resnet`."""
    return resnet(stage_sizes or (3, 4, 6, 3), bottleneck=True, **options)


def resnet101(*, stage_sizes: Sequence[int] | None = None, **options: Any) -> Encoder:
    """ResNet-101, 2048 features; `options` are those of `resnet`."""
    return resnet(stage_sizes or (3, 4, 23, 3), bottleneck=True, **options)


def resnet152(*, stage_sizes: Sequence[int] | None = None, **options: Any) -> Encoder:
    """ResNet-152, 2048 features; `options` are those of `resnet`."""
    return resnet(stage_sizes or (3, 8, 36, 3), bottleneck=True, **options)
