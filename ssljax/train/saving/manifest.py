"""What a saved step consists of: written as the last of its files, checked before anything else of it is read.

`manifest.json` names every leaf of the state with its dtype, shape and digest, every file with its size (and, up to
a mebibyte, its hash), and the facts of the run. It starts with a hash of all that follows, so a damaged manifest is
known before it is parsed.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
from etils import epath

from ssljax.train.buckets import is_local
from ssljax.train.saving.store import CHANGES_AT_COMMIT
from ssljax.types import BadInputError

NAME = "manifest.json"
FORMAT = 2
_OPENING, _MIDDLE, _CLOSING = b'{"blake2b": "', b'", "manifest": ', b"}\n"
_LARGEST = 64 * 2**20  # bytes; no manifest comes near it
_SMALL = 2**20
_NOT_LISTED = (NAME, NAME + ".new", *CHANGES_AT_COMMIT)


class DamageError(Exception):
    """A saved step is not what was saved; the message names the file or leaf."""


def kind(leaf: Any) -> str:
    """A leaf's dtype and shape, such as "float32[3, 4]"."""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def write(directory: epath.Path, body: dict[str, Any]) -> None:
    """Seal a step's directory: its files reach the disk, then the manifest of `body` and of these files does."""
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
    """What `write` was given, with `format` and `files`.

    Raises:
        DamageError: it is missing or not what was written.
    """
    try:
        if (directory / NAME).stat().length > _LARGEST:
            raise DamageError(f"{NAME} is larger than any that was ever written")
        sealed = (directory / NAME).read_bytes()
    except FileNotFoundError:
        raise DamageError(f"{NAME} is missing") from None
    except OSError as error:
        raise DamageError(f"{NAME} cannot be read: {reason(error)}") from error
    start = len(_OPENING) + 64 + len(_MIDDLE)
    text = sealed[start : -len(_CLOSING)]
    if sealed != _OPENING + _hash(text).encode() + _MIDDLE + text + _CLOSING:
        raise DamageError(f"{NAME} is not as it was written")
    return json.loads(text)


def check_files(directory: epath.Path, body: dict[str, Any]) -> None:
    """Compare the files with what the manifest says of them.

    Raises:
        DamageError: one is missing, of another size or, a small one, of other contents.
    """
    for name, entry in body["files"].items():
        try:
            now = _entry(directory / name, hashed=entry[1] is not None)
        except FileNotFoundError:
            raise DamageError(f"the file {name} is missing") from None
        except OSError as error:
            raise DamageError(f"the file {name} cannot be read: {reason(error)}") from error
        if now[0] != entry[0]:
            raise DamageError(f"the file {name} has {now[0]} bytes instead of {entry[0]}")
        if now[1] != entry[1]:
            raise DamageError(f"the file {name} is not as it was written")


def refuse_misfit(directory: epath.Path, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare the leaves that a manifest lists with the wanted arrays, before memory is taken for them.

    Raises:
        BadInputError: names the first leaf that differs in dtype or shape, or that only one of the two has.
    """
    if body["format"] != FORMAT:
        age = "a newer" if body["format"] > FORMAT else "an older"
        raise BadInputError(f"{directory} was saved by {age} ssljax (format {body['format']}); install that one.")
    here = {name: kind(leaf) for name, leaf in wanted.items()}
    there = {name: entry[0] for name, entry in body["leaves"].items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise BadInputError(
                f"{directory} does not fit: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here; use the options it was made with, or another --workdir."
            )


def sync_directory(directory: epath.Path) -> None:
    """What was renamed in a local directory survives a power cut from here on."""
    if is_local(directory):
        _sync(directory)


def reason(error: Exception) -> str:
    """What an exception says, short enough for a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


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
    return [size, _hash(path.read_bytes()) if hashed and size <= _SMALL else None]


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _sync(path: epath.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
