"""Where a directory in a bucket (`gs://`) is not like one of this machine: no empty folders, no renames of folders."""

import contextlib
import logging
import shutil
import tempfile
import threading
import uuid
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
        BadInputError: the library for it is missing, or there is no network or no permission.
    """
    if is_local(path):
        return
    try:
        with _quiet():
            epath.Path(path).exists()
    except ImportError as error:
        raise BadInputError(f"{option}={path}: a library is missing ({error}); install it with pip.") from error
    except Exception as error:  # each library has its own
        raise BadInputError(f"{option}={path} cannot be reached ({_why(error)}); choose another.") from error


def check_writable(directory: str, option: str = "workdir") -> None:
    """Make sure that files can be written to a directory, which need not exist; nothing of it stays.

    Raises:
        BadInputError: they cannot.
    """
    try:
        if is_local(directory):
            path = Path(directory).absolute()
            there = next(place for place in (path, *path.parents) if place.exists())
            tempfile.TemporaryFile(dir=there).close()
        else:
            with _quiet():
                file = epath.Path(directory) / f"{uuid.uuid4().hex}.tmp"
                file.write_text("")
                file.unlink()
    except Exception as error:  # each library has its own
        raise BadInputError(f"{option}={directory} cannot be written to ({_why(error)}); choose another.") from error


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return "there is no such bucket"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words.splitlines()[0][:200].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No tracebacks in gcsfs's log for what is going to be one sentence."""
    logger = logging.getLogger("gcsfs")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


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


class Mirror:
    """A local folder whose files are copied to a directory in a bucket, every minute and when asked.

    Attributes:
        here: the local folder.
    """

    def __init__(self, directory: epath.Path, every: float = 60.0):
        self.directory, self.every = directory, every
        self.here = Path(tempfile.mkdtemp(prefix="mirror-"))
        self._copied: dict[str, tuple[int, int]] = {}
        self._turn, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        self._thread.start()

    def copy(self) -> None:
        """Copy what has changed, but for files that are about to take another's place."""
        with self._turn:
            for path in (path for path in self.here.iterdir() if path.suffix != ".partial"):
                facts = path.stat()
                state = facts.st_mtime_ns, facts.st_size
                if self._copied.get(path.name) != state:
                    epath.Path(path).copy(self.directory / path.name, overwrite=True)
                    self._copied[path.name] = state

    def close(self) -> None:
        """Copy for the last time and remove the folder."""
        self._done.set()
        self._thread.join()
        self.copy()
        shutil.rmtree(self.here)

    def _follow(self) -> None:
        while not self._done.wait(self.every):
            with contextlib.suppress(Exception):  # of the network; the next time, or the end, copies it
                self.copy()


@contextlib.contextmanager
def on_disk(directory: epath.Path) -> Iterator[Path]:
    """The directory, or for the length of the block a copy of one that is in a bucket."""
    if is_local(directory):
        yield Path(directory)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(directory, epath.Path(folder))
        yield Path(folder)
