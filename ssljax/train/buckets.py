"""Directories that may be in a bucket (`gs://`), which has no empty folders and cannot rename folders."""

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
    """Whether the path is in a local file system."""
    return "://" not in str(path)


def check_reachable(path: str, option: str = "workdir") -> None:
    """Check that a bucket can be reached; local directories pass.

    Raises:
        BadInputError: its library is not installed, or there is no network or no permission.
    """
    if is_local(path):
        return
    try:
        with _quiet():
            epath.Path(path).exists()
    except ImportError as error:
        raise BadInputError(f"{option}={path}: a library is missing ({error}); install it with pip.") from error
    except Exception as error:  # each library has its own
        raise BadInputError(f"{option}={path} cannot be reached ({_bucket_error(error)}); choose another.") from error


def check_writable(directory: str, option: str = "workdir") -> None:
    """Check that files can be written to a directory, which need not exist and is not created.

    Raises:
        BadInputError: it is not writable.
    """
    try:
        if is_local(directory):
            path = Path(directory).absolute()
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            tempfile.TemporaryFile(dir=existing).close()
        else:
            with _quiet():
                file = epath.Path(directory) / f"{uuid.uuid4().hex}.tmp"
                file.write_text("")
                file.unlink()
    except Exception as error:  # each library has its own
        raise BadInputError(
            f"{option}={directory} cannot be written to ({_bucket_error(error)}); choose another."
        ) from error


def error_text(error: Exception) -> str:
    """The first line of an exception's message, short enough for a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


def _bucket_error(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return "there is no such bucket"
    return error_text(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress gcsfs's logged tracebacks for an error that is reported in one sentence."""
    logger = logging.getLogger("gcsfs")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def entries(directory: epath.Path) -> list[epath.Path]:
    """The contents of a directory; [] if it does not exist, since a bucket has no empty ones."""
    return list(directory.iterdir()) if directory.exists() else []


def copy_tree(source: epath.Path, target: epath.Path) -> None:
    """Copy all files below `source` to `target`, from or to a bucket."""
    for path in source.iterdir():
        if path.is_dir():
            copy_tree(path, target / path.name)
        else:
            if is_local(target):
                target.mkdir(parents=True, exist_ok=True)
            path.copy(target / path.name, overwrite=True)


class Mirror:
    """A local folder whose files are copied to a directory in a bucket, every minute and on request.

    Attributes:
        local: the local folder.
    """

    def __init__(self, directory: epath.Path, interval: float = 60.0):
        self.directory, self.interval = directory, interval
        self.local = Path(tempfile.mkdtemp(prefix="mirror-"))
        self._copied: dict[str, tuple[int, int]] = {}
        self._mutex, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Copy the files that have changed, except partial ones that are about to be renamed."""
        with self._mutex:
            for path in (path for path in self.local.iterdir() if path.suffix != ".partial"):
                stat = path.stat()
                state = stat.st_mtime_ns, stat.st_size
                if self._copied.get(path.name) != state:
                    epath.Path(path).copy(self.directory / path.name, overwrite=True)
                    self._copied[path.name] = state

    def close(self) -> None:
        """Copy a last time and remove the local folder."""
        self._done.set()
        self._thread.join()
        self.sync()
        shutil.rmtree(self.local)

    def _run(self) -> None:
        while not self._done.wait(self.interval):
            with contextlib.suppress(Exception):  # of the network; the next copy retries
                self.sync()


@contextlib.contextmanager
def local_copy(directory: epath.Path) -> Iterator[Path]:
    """A local directory itself; of one in a bucket a copy, which lasts as long as the block."""
    if is_local(directory):
        yield Path(directory)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(directory, epath.Path(folder))
        yield Path(folder)
