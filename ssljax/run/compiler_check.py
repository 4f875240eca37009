"""A check at start-up that this jaxlib compiles right: small training steps under jit against the same op by op."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.extend.core import Literal

from ssljax.models.resnet import resnet
from ssljax.types import Array, BadInputError, PyTree

# relative to the norm of the leaf; measured are 1e-6 and, for bfloat16, whose rounding flips some ReLUs, 2e-2
TOLERANCES = {"float32": 5e-3, "bfloat16": 0.1}
FLAG = "--xla_cpu_experimental_ynn_fusion_type="
CHANNELS, GROUPS = 64, 2


def _broadcast_in_dim(
    x: np.ndarray, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...], **_
) -> np.ndarray:
    spread = [1] * len(shape)
    for size, dimension in zip(x.shape, broadcast_dimensions, strict=True):
        spread[dimension] = size
    return np.broadcast_to(x.reshape(spread), shape)


# what jax's primitives are in NumPy; sums of bfloat16 are taken in float32, as XLA takes them
NUMPY: dict[str, Callable] = {
    "add": lambda x, y, **_: x + y,
    "add_any": lambda x, y, **_: x + y,
    "broadcast_in_dim": _broadcast_in_dim,
    "convert_element_type": lambda x, *, new_dtype, **_: x.astype(new_dtype),
    "copy": lambda x, **_: x,
    "div": lambda x, y, **_: x / y,
    "eq": lambda x, y, **_: x == y,
    "exp": lambda x, **_: np.exp(x),
    "gt": lambda x, y, **_: x > y,
    "integer_pow": lambda x, *, y, **_: x**y,
    "log": lambda x, **_: np.log(x),
    "lt": lambda x, y, **_: x < y,
    "max": lambda x, y, **_: np.maximum(x, y),
    "mul": lambda x, y, **_: x * y,
    "neg": lambda x, **_: -x,
    "one_minus_square": lambda x, **_: 1 - x * x,
    "pow": lambda x, y, **_: x**y,
    "reduce_max": lambda x, *, axes, **_: x.max(axes),
    "reduce_sum": lambda x, *, axes, **_: x.sum(axes, dtype=np.promote_types(x.dtype, np.float32)),
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "select_n": lambda which, no, yes, **_: np.where(which, yes, no),
    "square": lambda x, **_: x * x,
    "stop_gradient": lambda x, **_: x,
    "sub": lambda x, y, **_: x - y,
    "tanh": lambda x, **_: np.tanh(x),
    "transpose": lambda x, *, permutation, **_: x.transpose(permutation),
}


def check(bfloat16: bool = False) -> None:
    """Run three small steps on this process's first device, compiled and op by op, and compare.

    A convolution with grouped batch norm and a residual, dense layers with layer norm and cross entropy, both with
    gradients, and a residual network in eval mode. Call it before a mesh is set; every process checks for itself.

    Args:
        bfloat16: compute in bfloat16 instead of float32.

    Raises:
        BadInputError: the two differ by more than `TOLERANCES`, or a number is not finite; the sentence says what
            differs, on which device and jaxlib, and what to do.

    Reference: XLA:CPU's fusions in jaxlib 0.12.0 give NaN or garbage for residual networks in bfloat16, which this
        finds. Those of 0.10.2 sum wrongly where 3x3 products with over 32,768 rows are reduced
        (github.com/jax-ml/jax/issues/39103), which no step here does.
    """
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    device = jax.local_devices()[0]
    with jax.default_device(device):
        for name, make in STEPS.items():
            step, inputs = make(np.random.default_rng(0), dtype)
            found, wanted = jax.device_get(_compiled(step, inputs)), _op_by_op(step, inputs)
            _compare(name, found, wanted, device, TOLERANCES[jnp.dtype(dtype).name])


def _compiled(step: Callable, inputs: tuple) -> PyTree:
    return jax.jit(step)(*inputs)


def _op_by_op(step: Callable, inputs: tuple) -> PyTree:
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(*inputs)
    return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, jax.tree.leaves(inputs)))


def _evaluate(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """A jaxpr's results, each operation by itself: by NumPy where `NUMPY` has it, otherwise as a program of its own.

    jax's own op-by-op mode gives the same but compiles a hundred programs, some 30 ms each on CPUs.
    """
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        name, given = equation.primitive.name, [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if inner is not None:
            results = _evaluate(inner, given)
        elif name in NUMPY:
            result = NUMPY[name](*(np.asarray(value) for value in given), **equation.params)
            results = [np.asarray(result, equation.outvars[0].aval.dtype)]
        else:
            results = equation.primitive.bind(*given, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _compare(name: str, found: PyTree, wanted: PyTree, device: Any, tolerance: float) -> None:
    for (path, have), want in zip(jax.tree.flatten_with_path(found)[0], jax.tree.leaves(wanted), strict=True):
        have, want = np.asarray(have, np.float64), np.asarray(want, np.float64)
        bad = int((~np.isfinite(have)).sum())
        off = np.linalg.norm(have - want) / max(np.linalg.norm(want), 1e-12) if not bad else np.inf
        if off <= tolerance:
            continue
        what = (
            f"{bad} of {have.size} numbers are not finite" if bad else f"they are {off:.2g} apart ({tolerance} may be)"
        )
        mend = f"add {FLAG} to XLA_FLAGS, or " if device.platform == "cpu" else ""
        raise BadInputError(
            f"{name} compiled by jaxlib {jaxlib.__version__} for {device.device_kind} is not what its operations "
            f"give singly: in{jax.tree_util.keystr(path)} {what}; {mend}take another jaxlib."
        )


def _normal(rng: np.random.Generator, *shape: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
    return (mean + std * rng.normal(size=shape)).astype(np.float32)


def _moments(x: Array, axis: int) -> Array:
    """Mean 0 and variance 1 along an axis."""
    centred = x - jnp.mean(x, axis, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis, keepdims=True) + 1e-5)


def _convolution(rng: np.random.Generator, dtype: Any) -> tuple[Callable, tuple]:
    shape = (4, 8, 8, CHANNELS)
    params = {
        "x": _normal(rng, *shape),
        "kernel": _normal(rng, 3, 3, CHANNELS, CHANNELS, std=0.05),
        "scale": _normal(rng, 1, 1, CHANNELS, std=0.1, mean=1),
        "bias": _normal(rng, 1, 1, CHANNELS),
    }

    def loss(params, weights):
        x = params["x"].astype(dtype)
        kernel = params["kernel"].astype(dtype)
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        groups = y.astype(jnp.float32).reshape(GROUPS, -1, CHANNELS)
        y = _moments(groups, 1) * params["scale"] + params["bias"]
        y = jax.lax.max(y.astype(dtype).reshape(shape) + x, jnp.zeros(shape, dtype))
        return jnp.sum(y.astype(jnp.float32) * weights), y

    return jax.value_and_grad(loss, has_aux=True), (params, _normal(rng, *shape, std=0.01))


def _dense(rng: np.random.Generator, dtype: Any) -> tuple[Callable, tuple]:
    width = 128
    params = {
        "first": _normal(rng, width, width, std=0.1),
        "bias": _normal(rng, 1, width),
        "scale": _normal(rng, 1, width, std=0.1, mean=1),
        "second": _normal(rng, width, width, std=0.1),
    }

    def loss(params, x, labels):
        h = jax.nn.gelu(x.astype(dtype) @ params["first"].astype(dtype) + params["bias"].astype(dtype))
        h = _moments(h.astype(jnp.float32), 1) * params["scale"]
        logits = (h.astype(dtype) @ params["second"].astype(dtype)).astype(jnp.float32)
        return -jnp.mean(jax.nn.log_softmax(logits) * labels), logits

    labels = np.eye(width, dtype=np.float32)[rng.integers(0, width, width)]
    return jax.value_and_grad(loss, has_aux=True), (params, _normal(rng, width, width), labels)


def _network(rng: np.random.Generator, dtype: Any) -> tuple[Callable, tuple]:
    network = resnet((1,), bottleneck=True, stem="cifar", width=CHANNELS, dtype=dtype)
    x = _normal(rng, 4, 8, 8, 3)

    def filled(path, leaf):
        return _normal(rng, *leaf.shape, std=0.05, mean=float(path[-1].key in ("scale", "var")))

    variables = jax.tree.map_with_path(filled, jax.eval_shape(network.init, jax.random.key(0), x))
    return lambda params, stats, x: {"features": network.apply(params, stats, x, train=False)[0]}, (*variables, x)


STEPS = {
    "a convolution's training step": _convolution,
    "a dense layer's training step": _dense,
    "a residual network": _network,
}
