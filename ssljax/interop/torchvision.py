"""ResNet weights under torchvision's names, which timm shares, in and out of safetensors files."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.interop.safetensors_file import check_floats, read_safetensors, write_safetensors
from ssljax.types import BadInputError, PyTree

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
PARTS = re.compile(
    r"(conv1|layer\d+_\d+/(conv\d|downsample_conv))/kernel|(bn1|layer\d+_\d+/(bn\d|downsample_bn))/(scale|bias|mean|var)"
)


def to_torchvision(params: PyTree, stats: PyTree) -> dict[str, np.ndarray]:
    """A ResNet's weights as torchvision's state dict.

    Args:
        params: parameters of `ssljax.models.resnet`.
        stats: its batch statistics.

    Returns:
        Arrays by torchvision's names, without `fc.*`; kernels are OIHW; every `num_batches_tracked` is 0.

    Raises:
        BadInputError: a parameter that is no part of such a ResNet.

    Reference: pytorch/vision `torchvision/models/resnet.py`.
    """
    state = {name: _kernel_out(np.asarray(leaf)) for name, leaf in _named({"p": params, "s": stats}).items()}
    counters = [name.replace("running_var", COUNTER) for name in state if name.endswith("running_var")]
    return state | {name: np.zeros((), np.int64) for name in counters}


def from_torchvision(state: Mapping[str, Any], *, like: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    """The inverse of `to_torchvision`.

    Args:
        state: arrays by torchvision's names (anything `numpy.asarray` takes, CPU tensors included). `fc.*` and
            `num_batches_tracked` are ignored.
        like: `(params, stats)` of the ResNet to fill, arrays or shapes (`jax.eval_shape(encoder.init, ...)`).

    Returns:
        `(params, stats)` with the state's values in the structure and dtypes of `like`.

    Raises:
        BadInputError: an array is missing, unexpected or of another shape or kind; the first one is named.
    """
    tree = {"p": like[0], "s": like[1]}
    names = _named(tree)
    given = {k: v for k, v in state.items() if not (k.startswith("fc.") or k.endswith(COUNTER))}
    leaves = []
    for name, leaf in names.items():
        wanted = _kernel_shape(leaf.shape)
        if name not in given:
            raise BadInputError(f"{name} is missing: the ResNet needs it with shape {wanted}; check the depth.")
        value = np.asarray(given[name])
        if value.shape != wanted:
            raise BadInputError(f"{name} has shape {value.shape}, the ResNet needs {wanted}; check width and stem.")
        check_floats(name, value)
        leaves.append(jnp.asarray(_kernel_in(value), leaf.dtype))
    for name in given:
        if name not in names:
            shape = np.shape(given[name])
            raise BadInputError(f"{name} with shape {shape} is unexpected: the ResNet has none; check the depth.")
    filled = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return filled["p"], filled["s"]


def matching(
    state: Mapping[str, Any], *, like: tuple[PyTree, PyTree]
) -> tuple[dict[int, np.ndarray], list[str], list[str]]:
    """Which leaves of a ResNet a state dict has, to start from it as far as it fits.

    Args:
        state: arrays by torchvision's names.
        like: `(params, stats)` of the ResNet, arrays or shapes.

    Returns:
        The arrays that fit, by position in `jax.tree.leaves(like)`; the names, with shapes where those differ, of
        leaves that none fits; and the names of the arrays that are not used.

    Raises:
        BadInputError: an array that would fit is not of floating-point numbers.
    """
    found, missing, used = {}, [], set()
    # the order of the leaves of a tuple is that of its parts, as is that of the names
    for number, (name, leaf) in enumerate(_named({"p": like[0], "s": like[1]}).items()):
        wanted = _kernel_shape(leaf.shape)
        if name in state and np.shape(state[name]) == wanted:
            check_floats(name, np.asarray(state[name]))
            found[number] = _kernel_in(np.asarray(state[name]))
            used.add(name)
        else:
            other = f" {list(np.shape(state[name]))} for {list(wanted)}" if name in state else ""
            missing.append(f"{name}{other}")
    return found, missing, [name for name in state if name not in used and not name.endswith(COUNTER)]


def architecture(state: Mapping[str, Any]) -> dict[str, Any]:
    """What ResNet a state dict with torchvision's names is of.

    Args:
        state: arrays by torchvision's names.

    Returns:
        The arguments of `ssljax.models.resnet.resnet` that fit, by name: stage_sizes, bottleneck, stem, width; and
        channels, that of the pictures.

    Raises:
        BadInputError: it is no such ResNet.

    >>> from ssljax.models.resnet import resnet
    >>> shapes = jax.eval_shape(resnet((1, 2), stem="cifar", width=8).init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
    >>> zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    >>> architecture(to_torchvision(*zeros))
    {'stage_sizes': (1, 2), 'bottleneck': False, 'stem': 'cifar', 'width': 8, 'channels': 4}
    """
    blocks = {(int(m[1]), int(m[2])) for m in map(re.compile(r"layer(\d+)\.(\d+)\.").match, state) if m}
    stages = tuple(sum(stage == number for stage, _ in blocks) for number in range(1, len({s for s, _ in blocks}) + 1))
    first = state.get("conv1.weight")
    if first is None or np.ndim(first) != 4 or not stages or min(stages) < 1:
        raise BadInputError("it holds no ResNet under torchvision's names; give the weights of a ResNet.")
    width, channels, side, _ = np.shape(first)
    return {
        "stage_sizes": stages,
        "bottleneck": "layer1.0.conv3.weight" in state,
        "stem": "imagenet" if side == 7 else "cifar",
        "width": width,
        "channels": channels,
    }


def save_safetensors(
    path: str | os.PathLike, params: PyTree, stats: PyTree, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a ResNet under torchvision's names, for `timm.create_model(name, num_classes=0)` and torchvision.

    The file appears whole or not at all. Call it from a single process.

    Args:
        path: path of a new file.
        params: parameters of `ssljax.models.resnet`.
        stats: its batch statistics.
        metadata: further facts, strings by name, for the file's header.

    Raises:
        BadInputError: the file exists, its folder does not, or it is no ResNet of `ssljax.models.resnet`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInputError(f"{path}: the folder {path.parent} does not exist; make it first.")
    state = to_torchvision(params, stats)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_safetensors(part, state, metadata or {})
        # a link, unlike a rename, fails where there is a file already
        os.link(part, path)
    except FileExistsError:
        raise BadInputError(f"{path} exists: it is not overwritten; choose another name.") from None
    finally:
        part.unlink(missing_ok=True)


def load_safetensors(path: str | os.PathLike, like: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    """Read a ResNet that was written under torchvision's names, by us, timm or torchvision.

    Args:
        path: path of the file.
        like: `(params, stats)` of the ResNet to fill, arrays or only their shapes.

    Returns:
        `(params, stats)`.

    Raises:
        BadInputError: there is no such file, it is damaged, or an array is missing, unexpected or of another shape or
            kind.
    """
    path = Path(path)
    try:
        return from_torchvision(read_safetensors(path), like=like)
    except BadInputError as error:
        raise BadInputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _named(tree: PyTree) -> dict[str, Any]:
    """Leaves by torchvision's names, in the order of `jax.tree.leaves`."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {_name([str(getattr(key, "key", key)) for key in path[1:]], leaf.ndim): leaf for path, leaf in paths}


def _name(path: list[str], ndim: int) -> str:
    """`layer1_0, downsample_bn, scale` -> `layer1.0.downsample.1.weight`."""
    if not PARTS.fullmatch("/".join(path)) or ndim != (4 if path[-1] == "kernel" else 1):
        raise BadInputError(
            f"{'/'.join(path)} is no part of a ResNet of ssljax.models.resnet, and torchvision has no name for it; "
            "choose another writer for this encoder."
        )
    modules = [re.sub(r"^(layer\d+)_(\d+)$", r"\1.\2", module) for module in path[:-1]]
    modules = [{"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(m, m) for m in modules]
    return ".".join([*modules, LEAF_NAMES[path[-1]]])


def _kernel_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape)


def _kernel_out(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value


def _kernel_in(value: np.ndarray) -> np.ndarray:
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
