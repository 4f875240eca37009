"""Arrays out of safetensors files of any origin."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssljax.types import BadInputError


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file.

    The library compares lengths, shapes and offsets with the file's size before it takes memory.

    Raises:
        BadInputError: the file is damaged, cut short, not a safetensors file, or of a type that NumPy lacks.
    """
    import safetensors.numpy

    if not path.is_file():
        raise BadInputError(f"{path}: there is no such file; give an existing one.")
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # SafetensorError, and others for types and for memory
        reason = " ".join(str(error).split())[:200]
        raise BadInputError(f"{path} is not a safetensors file or is damaged ({reason}); write it again.") from error


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with PyTorch's `format` in its header: the same bytes from the same content.

    The library alone orders the header's facts otherwise in each process.
    """
    import safetensors.numpy

    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    content = memoryview(safetensors.numpy.save(arrays, metadata={"format": "pt", **metadata}))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:end]))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.writelines((len(text).to_bytes(8, "little"), text, content[end:]))


def read_metadata(path: Path) -> dict[str, str]:
    """The facts in the header of a safetensors file that `read_safetensors` has read; {} where there are none."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def check_floats(name: str, value: np.ndarray) -> None:
    """Make sure that weights are floating-point numbers, whose bits under another type are other numbers.

    Raises:
        BadInputError: they are not.
    """
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise BadInputError(f"{name} holds {value.dtype} and weights are floating-point numbers; write the file again.")
