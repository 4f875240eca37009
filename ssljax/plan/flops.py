"""Floating-point operations of a function, counted from what it traces to: matrix products and convolutions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

# a TPU multiplies bfloat16; float32 at a higher precision is made of several such products
_PASSES = {lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6}


class Flops(NamedTuple):
    """Operations of all devices together.

    Attributes:
        matmul: operations of `dot_general`, two a multiplication and addition.
        convolution: operations of `conv_general_dilated`; zeros that dilation puts between the rows are not counted,
            those of the padding are, as is usual.
        passes: the same operations, but those of float32 at high precision as often as a TPU repeats them.
    """

    matmul: float = 0.0
    convolution: float = 0.0
    passes: float = 0.0

    @property
    def total(self) -> float:
        """Both kinds."""
        return self.matmul + self.convolution

    def plus(self, other: "Flops", times: int = 1) -> "Flops":
        """This and `times` the other."""
        return Flops(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


def count(function: Callable, *args: Any) -> Flops:
    """The operations of `function(*args)`, the backward pass included where it takes gradients.

    A loop's body counts as often as it runs; a `while` of unknown length counts once, and of a conditional's branches
    the dearest counts. The compiler's own count leaves out convolutions that a library does, and counts a scan once.

    Args:
        function: traced, not run.
        *args: arrays or `jax.ShapeDtypeStruct`s.

    >>> import jax.numpy as jnp
    >>> count(jnp.dot, jax.ShapeDtypeStruct((4, 8), "float32"), jax.ShapeDtypeStruct((8, 2), "float32")).total
    128.0
    """
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    return count_jaxpr(jitted.trace(*args).jaxpr.jaxpr)


def count_jaxpr(jaxpr: Any) -> Flops:
    """The operations of a jaxpr and all that it calls."""
    found = Flops()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            found = found.plus(_dot(equation))
        elif name == "conv_general_dilated":
            found = found.plus(_convolution(equation))
        else:
            found = found.plus(_called(name, equation))
    return found


def _called(name: str, equation: Any) -> Flops:
    """What the functions within an equation do."""
    parts = [count_jaxpr(part) for part in _jaxprs(equation.params)]
    if not parts:
        return Flops()
    if name == "cond":
        platforms = equation.params.get("branches_platforms")
        if platforms:  # of `lax.platform_dependent`: the branch that a TPU takes
            return next(part for part, names in zip(parts, platforms, strict=True) if not names or "tpu" in names)
        return max(parts, key=lambda part: part.total)
    times = equation.params["length"] if name == "scan" else 1
    if name == "shard_map":  # its shapes are one device's
        times = equation.params["mesh"].size
    total = Flops()
    for part in parts:
        total = total.plus(part, times)
    return total


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """The functions among an equation's parameters; a custom derivative's rules have been applied or are not run."""
    values = [value for name, value in params.items() if name not in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")]
    flat = [part for value in values for part in (value if isinstance(value, tuple | list) else (value,))]
    inner = [getattr(part, "jaxpr", part) for part in flat]
    return [part for part in inner if hasattr(part, "eqns")]


def _dot(equation: Any) -> Flops:
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    (contracted, _), _ = equation.params["dimension_numbers"]
    flops = 2.0 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
    return Flops(matmul=flops, passes=flops * _passes(equation))


def _convolution(equation: Any) -> Flops:
    kernel, out = equation.invars[1].aval, equation.outvars[0].aval
    _, features_in, *spatial = equation.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel.shape[axis] for axis in spatial) * kernel.shape[features_in]
    flops = 2.0 * math.prod(out.shape) * taps / math.prod(equation.params["lhs_dilation"])
    return Flops(convolution=flops, passes=flops * _passes(equation))


def _passes(equation: Any) -> int:
    precision = equation.params.get("precision")
    wanted = precision[0] if isinstance(precision, tuple) else precision
    wide = any(operand.aval.dtype.itemsize >= 4 for operand in equation.invars)
    return _PASSES.get(wanted, 1) if wide and wanted is not None else 1
