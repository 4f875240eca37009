"""The compiler check: two small programs as this jaxlib compiles them, compared with the same in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from ssljax.models.resnet import resnet
from ssljax.run import compile_cache
from ssljax.types import BadInputError, PyTree

# relative to the norm of an array; 1e-6 is usual and, in bfloat16, whose rounding flips some ReLUs, 2e-2
TOLERANCES = {"float32": 5e-3, "bfloat16": 0.1}
FLAG = "--xla_cpu_experimental_ynn_fusion_type="


def check(directory: str, bfloat16: bool = False) -> None:
    """Compile a residual network and a training step for this process's first device, and compare what they give.

    That they passed is remembered, as `compile_cache.once` says. Call it before a mesh is set; each process checks.

    Args:
        directory: where to remember it, as `compile_cache.keep` returns it; "": nowhere.
        bfloat16: compute in bfloat16 instead of float32.

    Raises:
        BadInputError: a value is not finite, or an array differs by more than `TOLERANCES`.

    Reference: XLA:CPU's fusions in jaxlib 0.11 and 0.12 give NaN or garbage for residual networks in bfloat16, which
        this finds. Those of 0.10.2 sum wrongly where 3x3 products with over 32,768 rows are reduced
        (github.com/jax-ml/jax/issues/39103), which are larger than any here.
    """
    dtype = np.dtype(jnp.bfloat16 if bfloat16 else np.float32)
    compile_cache.once(directory, f"compiler check in {dtype.name}", lambda: _check(jax.local_devices()[0], dtype))


def _check(device: Any, dtype: np.dtype) -> None:
    for name, make in PROGRAMS.items():
        # float32 as such, not the TF32 or bfloat16 in which accelerators multiply it
        with jax.default_device(device), jax.default_matmul_precision("highest" if dtype == np.float32 else None):
            found = _compiled(*make(np.random.default_rng(0), dtype))
        wrong = _compare(found, _in_float64(make), TOLERANCES[dtype.name])
        if wrong:
            flag = f"add {FLAG} to XLA_FLAGS, or " if device.platform == "cpu" else ""
            raise BadInputError(
                f"XLA of jaxlib {jaxlib.__version__} miscompiles {name} on {device.device_kind} ({wrong}); "
                f"{flag}install another jaxlib."
            )


def _compiled(program: Callable, inputs: tuple) -> PyTree:
    return jax.device_get(jax.jit(program)(*inputs))


def _in_float64(make: Callable) -> PyTree:
    """On the CPU where jax has one; compiled too, since operation by operation it would be a hundred programs."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names others only
        device = None
    with jax.default_device(device), jax.enable_x64(True):
        program, inputs = make(np.random.default_rng(0), np.dtype(np.float64))
        return jax.device_get(jax.jit(program)(*jax.tree.map(np.float64, inputs)))


def _compare(found: PyTree, wanted: PyTree, tolerance: float) -> str:
    """What is wrong, in a few words; "" if nothing is."""
    for (path, have), want in zip(jax.tree.flatten_with_path(found)[0], jax.tree.leaves(wanted), strict=True):
        have, want = np.asarray(have, np.float64), np.asarray(want, np.float64)
        bad, name = int((~np.isfinite(have)).sum()), jax.tree_util.keystr(path, simple=True, separator="/")
        if bad:
            return f"{bad} of {have.size} values of '{name}' are not finite"
        off = np.linalg.norm(have - want) / max(np.linalg.norm(want), 1e-12)
        if not off <= tolerance:
            return f"'{name}' is off by {off:.2g}, more than {tolerance}"
    return ""


def _normal(rng: np.random.Generator, *shape: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """float32 values that bfloat16 holds exactly."""
    return (mean + std * rng.normal(size=shape)).astype(jnp.bfloat16).astype(np.float32)


def _residual_network(rng: np.random.Generator, dtype: Any) -> tuple[Callable, tuple]:
    network, images = resnet((1,), stem="cifar", width=32, dtype=dtype), _normal(rng, 4, 8, 8, 3)

    def filled(path, leaf):
        return _normal(rng, *leaf.shape, std=0.05, mean=float(path[-1].key in ("scale", "var")))

    variables = jax.tree.map_with_path(filled, jax.eval_shape(lambda: network.init(jax.random.key(0), images)))
    return lambda *inputs: {"features": network.apply(*inputs, train=False)[0]}, (*variables, images)


def _training_step(rng: np.random.Generator, dtype: Any) -> tuple[Callable, tuple]:
    """A convolution with batch norm in groups and a residual; dense layers with layer norm and cross entropy."""
    sizes, groups, channels, hidden = (4, 8, 8, 64), 2, 64, 128
    kernels = {"kernel": (3, 3, channels, channels), "first": (channels, hidden), "second": (hidden, hidden)}
    params = {name: _normal(rng, *shape, std=0.1) for name, shape in kernels.items()}
    params |= {"images": _normal(rng, *sizes), "bias": _normal(rng, 1, hidden)}
    params |= {"scale": _normal(rng, 1, 1, channels, std=0.25), "gain": _normal(rng, 1, hidden)}
    wide = np.promote_types(dtype, np.float32)

    def loss(params, labels):
        x, kernel, first, second = (params[name].astype(dtype) for name in ("images", *kernels))
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = jax.nn.standardize(y.astype(wide).reshape(groups, -1, channels), 1) * params["scale"]
        y = jax.nn.relu(y.astype(dtype).reshape(sizes) + x).reshape(-1, channels)
        h = jax.nn.gelu(y @ first + params["bias"].astype(dtype)).astype(wide)
        h = (jax.nn.standardize(h, 1) * params["gain"]).astype(dtype)
        return -jnp.mean(jax.nn.log_softmax((h @ second).astype(wide)) * labels)

    step = jax.value_and_grad(loss)
    labels = np.eye(hidden, dtype=np.float32)[rng.integers(0, hidden, 256)]
    return lambda *inputs: dict(zip(("loss", "gradient"), step(*inputs), strict=True)), (params, labels)


PROGRAMS = {"a residual network": _residual_network, "a training step": _training_step}
