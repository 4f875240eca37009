"""Where a directory in a bucket (`gs://`) is not like one of this machine: no empty folders, no renames of folders."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from ssljax.types import BadInputError


def is_local(path: Any) -> bool:
    """Whether the path is one of this machine's file systems."""
    return "://" not in str(path)


def check(path: str, option: str = "workdir") -> None:
    """Make sure that a bucket can be reached; local directories pass.

    Raises:
        BadInputError: the library for it is missing, or there is no such bucket, or no access to it.
    """
    if is_local(path):
        return
    try:
        epath.Path(path).exists()
    except ImportError as error:
        library = "gcsfs" if path.startswith("gs://") else "it"
        raise BadInputError(f"{option}={path}: a library is missing ({error}); pip install {library}.") from error
    except Exception as error:  # of the network, of credentials: each library has its own
        why = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise BadInputError(f"{option}={path} cannot be reached ({why}); mend that or choose another.") from error


def entries(directory: epath.Path) -> list[epath.Path]:
    """What is in it; nothing where it is not there, as an empty one never is in a bucket."""
    return list(directory.iterdir()) if directory.exists() else []


def copy_tree(source: epath.Path, target: epath.Path) -> None:
    """Copy all files below `source` to their places below `target`, from or to a bucket."""
    for path in source.iterdir():
        if path.is_dir():
            copy_tree(path, target / path.name)
        else:
            if is_local(target):
                target.mkdir(parents=True, exist_ok=True)
            path.copy(target / path.name, overwrite=True)


@contextlib.contextmanager
def on_disk(directory: epath.Path) -> Iterator[Path]:
    """The directory, or for the length of the block a copy of one that is in a bucket."""
    if is_local(directory):
        yield Path(directory)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(directory, epath.Path(folder))
        yield Path(folder)
