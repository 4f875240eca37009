"""The manifest of a checkpoint: written as the last of its files, verified before any other is read.

`manifest.json` lists every leaf of the state with its dtype, shape and digest, every file with its size (and, up to
a mebibyte, its hash), and the metadata of the run ("facts"). It starts with a hash of all that follows, so a damaged
manifest is detected before it is parsed.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
from etils import epath

from ssljax.train.buckets import error_text, is_local
from ssljax.train.saving.store import CHANGES_AT_COMMIT
from ssljax.types import BadInputError

NAME = "manifest.json"
FORMAT = 2
_OPENING, _MIDDLE, _CLOSING = b'{"blake2b": "', b'", "manifest": ', b"}\n"
_MAX_BYTES = 64 * 2**20  # no manifest comes near it
_MAX_HASHED_BYTES = 2**20
_NOT_LISTED = (NAME, NAME + ".new", *CHANGES_AT_COMMIT)


class DamagedError(Exception):
    """A checkpoint is not what was saved; the message names the file or leaf."""


def dtype_and_shape(leaf: Any) -> str:
    """A leaf's dtype and shape, such as "float32[3, 4]"."""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def write(directory: epath.Path, body: dict[str, Any]) -> None:
    """Write the manifest of `body` and of the files in a step's directory; these are flushed to the disk first."""
    files = {name: _entry(directory / name) for name in sorted(_names(directory))}
    if is_local(directory):
        for name in files:
            _sync(directory / name)
        for folder in {os.path.dirname(name) for name in files}:
            _sync(directory / folder)
    text = json.dumps(body | {"format": FORMAT, "files": files}, allow_nan=False).encode()
    sealed = _OPENING + _hash(text).encode() + _MIDDLE + text + _CLOSING
    fresh = directory / f"{NAME}.new"
    fresh.write_bytes(sealed)
    if is_local(directory):
        _sync(fresh)
    fresh.rename(directory / NAME)
    if is_local(directory):
        _sync(directory)


def read(directory: epath.Path) -> dict[str, Any]:
    """The body that `write` was given, with `format` and `files`.

    Raises:
        DamagedError: it is missing or damaged.
    """
    try:
        if (directory / NAME).stat().length > _MAX_BYTES:
            raise DamagedError(f"{NAME} is too large")
        sealed = (directory / NAME).read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{NAME} is missing") from None
    except OSError as error:
        raise DamagedError(f"{NAME} cannot be read: {error_text(error)}") from error
    start = len(_OPENING) + 64 + len(_MIDDLE)
    text = sealed[start : -len(_CLOSING)]
    if sealed != _OPENING + _hash(text).encode() + _MIDDLE + text + _CLOSING:
        raise DamagedError(f"{NAME} has changed since it was written")
    return json.loads(text)


def check_files(directory: epath.Path, body: dict[str, Any]) -> None:
    """Compare the files with the manifest.

    Raises:
        DamagedError: a file is missing, has another size or, if it is small, other contents.
    """
    for name, entry in body["files"].items():
        try:
            now = _entry(directory / name, hashed=entry[1] is not None)
        except FileNotFoundError:
            raise DamagedError(f"the file {name} is missing") from None
        except OSError as error:
            raise DamagedError(f"the file {name} cannot be read: {error_text(error)}") from error
        if now[0] != entry[0]:
            raise DamagedError(f"the file {name} has {now[0]} bytes instead of {entry[0]}")
        if now[1] != entry[1]:
            raise DamagedError(f"the file {name} has changed since it was written")


def check_compatible(directory: epath.Path, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare the leaves of a manifest with the wanted arrays, before memory is allocated for them.

    Raises:
        BadInputError: a leaf differs in dtype or shape, or is missing on one side.
    """
    if body["format"] != FORMAT:
        age = "a newer" if body["format"] > FORMAT else "an older"
        raise BadInputError(f"{directory} was saved by {age} ssljax (format {body['format']}); install that version.")
    here = {name: dtype_and_shape(leaf) for name, leaf in wanted.items()}
    there = {name: entry[0] for name, entry in body["leaves"].items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise BadInputError(
                f"{directory} does not match this run: {name} is {there.get(name, 'missing')} in the checkpoint and "
                f"{here.get(name, 'missing')} here; use the options it was saved with, or another --workdir."
            )


def sync_directory(directory: epath.Path) -> None:
    """Flush a local directory's entries to the disk, so that a rename in it survives a power failure."""
    if is_local(directory):
        _sync(directory)


def _names(directory: epath.Path, prefix: str = "") -> list[str]:
    found = []
    for path in directory.iterdir():
        if path.is_dir():
            found += _names(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in _NOT_LISTED:
            found.append(prefix + path.name)
    return found


def _entry(path: epath.Path, hashed: bool = True) -> list[Any]:
    size = path.stat().length
    return [size, _hash(path.read_bytes()) if hashed and size <= _MAX_HASHED_BYTES else None]


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _sync(path: epath.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
