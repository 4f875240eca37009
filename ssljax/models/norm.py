"""BatchNorm over the global batch or over equal slices of it, on any number of devices."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from ssljax.types import Array, BadInputError

ONE_IN = 256  # the shift is the mean of one sample in so many, at least one


class BatchNorm(nn.Module):
    """Batch normalisation whose training statistics come from `groups` consecutive slices of the batch.

    `groups=1` normalises by the global batch on any number of devices (SyncBN). `groups=8` on a batch of 256 acts as
    eight GPUs of 32 images each without SyncBN, on any number of devices. The outputs of groups that lie within devices
    (groups a multiple of the devices) need no communication; the running averages need one mean of 2C floats.

    Attributes:
        groups: into how many equal slices the leading axis is cut.
        momentum: `running = momentum * running + (1 - momentum) * batch`, that is one minus torch's.
        epsilon: added to the variance.
        dtype: the output's dtype, by default the input's. Statistics and parameters are float32 or wider.
        use_scale: whether a factor per channel is learnt.
        use_bias: whether an offset per channel is learnt.
        scale_init: the initial scale; the bias starts at 0.

    Reference: arXiv 1502.03167, algorithm 1; torch `nn.BatchNorm2d`: the batch is normalised by the biased variance,
        the running average keeps the unbiased one. Groups: the per-GPU BN of arXiv 1911.05722, section 3.3.

    Differs from the paper: with groups the running averages take the mean over groups of means and of unbiased
        variances, as FAIR's CIFAR notebook does; its distributed runs save GPU 0's. That notebook deals samples out
        to its groups in turn, here a group is a consecutive slice, as on GPUs.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Normalise channels.

        Args:
            x: [B, ..., C], such as images [B, h, w, C] or embeddings [B, C].
            train: use the batch's statistics and move the running ones, or use the running ones.

        Returns:
            [B, ..., C] in `dtype`.

        Raises:
            BadInputError: the batch does not divide into the groups, or leaves one value per channel (training only).
        """
        C = x.shape[-1]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (C,), wide)
        var = self.variable("batch_stats", "var", jnp.ones, (C,), wide)
        scale = self.param("scale", self.scale_init, (C,), wide) if self.use_scale else jnp.ones((C,), wide)
        bias = self.param("bias", nn.initializers.zeros, (C,), wide) if self.use_bias else jnp.zeros((C,), wide)
        dtype = self.dtype or x.dtype
        if not train:
            return _normalise(x, mean.value, var.value, scale, bias, self.epsilon).astype(dtype)
        count = _check_groups(x.shape, self.groups)
        y, batch = _in_groups(x, scale, bias, self.groups, self.epsilon)
        if not self.is_initializing():
            keep = self.momentum
            mean.value = keep * mean.value + (1 - keep) * batch[0]
            var.value = keep * var.value + (1 - keep) * batch[1] * (count / (count - 1))
        return y.astype(dtype)


def _check_groups(shape: tuple[int, ...], groups: int) -> int:
    """How many values a channel has in each group."""
    if groups < 1 or shape[0] % groups:
        raise BadInputError(f"BatchNorm(groups={groups}): a batch of {shape[0]} does not cut into equal groups.")
    count = math.prod(shape[:-1]) // groups
    if count == 1:
        raise BadInputError(
            f"BatchNorm(groups={groups}) in training got one value per channel and group from shape {shape}: "
            "give a larger batch or fewer groups."
        )
    return count


def _in_groups(x, scale, bias, groups, epsilon):
    """Normalise each group by itself -> (float32[B, ..., C], the groups' average mean and biased variance [2, C])."""
    devices = _devices_of_rows(x)
    compute = functools.partial(_compute, groups=groups, devices=devices, epsilon=epsilon)
    if groups == 1 or groups % devices == 0:
        return compute(x, scale, bias)
    # a group then spans devices, and its rows cannot be named in the type: leave the layout to the compiler
    anywhere = jax.sharding.auto_axes(out_sharding=(jax.typeof(x).sharding.spec, P()))
    return anywhere(compute)(x, scale, bias)


def _compute(x, scale, bias, *, groups, devices, epsilon):
    shape = x.shape
    shift = _first_means(jax.lax.stop_gradient(x), groups, devices, scale.dtype)
    if groups > 1:
        x = x.reshape(groups, shape[0] // groups, *shape[1:])
        shift = shift.reshape(groups, *(1,) * (x.ndim - 2), shape[-1])
    axes = tuple(range(min(groups - 1, 1), x.ndim - 1))
    # one pass over x: both moments about the shift, which is near the mean, so that their difference loses little
    off = x.astype(shift.dtype) - _channels(shift, x.ndim)
    first, second = jnp.mean(off, axes, keepdims=True), jnp.mean(jnp.square(off), axes, keepdims=True)
    var = jnp.maximum(second - jnp.square(first), 0)
    # from `off`, which is exact: the mean itself, shift + first, is rounded to what may be much of the deviation
    y = _normalise(off, first, var, scale, bias, epsilon)
    mean = first + _channels(shift, x.ndim)
    batch = jnp.stack([mean, var]).reshape(2, groups, shape[-1]).mean(1)
    return y.reshape(shape), jax.lax.stop_gradient(batch)


def _first_means(x, groups, devices, dtype):
    """The channels' means over the first samples of each group, [C] or [groups, C], the same on any number of devices.

    At least one sample in `ONE_IN` is taken: whatever the values are, such a mean is then less than sqrt(`ONE_IN`)
    standard deviations from the group's. One pixel would bound less: an image's border differs from the rest.
    """
    parts = math.lcm(groups, devices)
    rows = x.shape[0] // parts
    taken = min(math.ceil(x.shape[0] / groups / ONE_IN), rows)
    # each device reads its own rows, and only the results, [parts, C], are summed over devices
    firsts = x.reshape(parts, rows, *x.shape[1:])[:, :taken].astype(dtype)
    means = jnp.mean(firsts, range(1, firsts.ndim - 1))
    if parts == groups:
        return means[0] if groups == 1 else means
    starts_group = jnp.arange(parts)[:, None] % (parts // groups) == 0
    means = jnp.where(starts_group, means, 0)
    return jnp.sum(means, 0) if groups == 1 else jnp.sum(means.reshape(groups, parts // groups, -1), 1)


def _normalise(x, mean, var, scale, bias, epsilon):
    mean, var, scale, bias = (_channels(leaf, x.ndim) for leaf in (mean, var, scale, bias))
    return (x.astype(mean.dtype) - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias


def _channels(values: Array, ndim: int) -> Array:
    """[C] -> [1, ..., 1, C]; statistics that already have the rank pass."""
    return values if values.ndim == ndim else values.reshape((1,) * (ndim - 1) + values.shape)


def _devices_of_rows(x: Array) -> int:
    """Over how many devices the leading axis is split, as far as the array's type says."""
    sharding = jax.typeof(x).sharding
    axes = sharding.spec[0] if len(sharding.spec) else None
    names = axes if isinstance(axes, tuple) else (axes,)
    return math.prod(sharding.mesh.shape[name] for name in names if name is not None)
