"""Arrays out of safetensors files of any origin."""

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
