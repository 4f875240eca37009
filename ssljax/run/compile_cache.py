"""Compiled programs, and that they were checked, are kept from run to run in the user's own cache directory."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jaxlib

import ssljax

SECONDS = 0.1  # what takes less to compile is not worth a file


def keep(directory: str | None = None) -> str:
    """From now on read compiled programs from a directory and write new ones there; for the start of a run.

    Args:
        directory: None for the one that jax is configured with (JAX_COMPILATION_CACHE_DIR), else for `default()`; ""
            to keep nothing.

    Returns:
        The directory in use; "" if there is none. One that cannot be written is named on standard error, and nothing
        is kept.
    """
    configured = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if directory is None and configured is not None:
        return configured
    wanted = default() if directory is None else directory
    if wanted and not _writable(wanted):
        print(f"Compiled programs are not kept: {wanted} cannot be written.", file=sys.stderr)
        wanted = ""
    if wanted != (configured or ""):
        jax.config.update("jax_compilation_cache_dir", wanted or None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    return wanted


def once(directory: str, name: str, check: Callable[[], None]) -> None:
    """Run a check of compiled code, unless this jaxlib has passed it on this device under these flags.

    Args:
        directory: what `keep` returned, where a small file remembers it; "" or one that is not local: the check runs.
        name: of the check, in a few words.
        check: raises if it fails, which is not remembered.
    """
    device = jax.local_devices()[0]
    passed = f"jaxlib {jaxlib.__version__} on {device.device_kind}: {name} passed\n".encode()
    versions = ssljax.__version__, jax.__version__, device.client.platform_version
    flags = os.environ.get("XLA_FLAGS"), os.environ.get("LIBTPU_INIT_ARGS")
    digest = hashlib.blake2b(repr((passed, versions, flags, _processor())).encode(), digest_size=8).hexdigest()
    file = Path(directory, f"passed-{digest}") if directory and "://" not in directory else None
    if file and _read(file) == passed:
        return
    check()
    if file:
        _write(file, passed)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, whoever else writes it; where it cannot be written, the next run checks again."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, ignore_cleanup_errors=True) as partial:
            (Path(partial) / file.name).write_bytes(content)
            (Path(partial) / file.name).replace(file)
    except OSError:
        pass


def default() -> str:
    """The user's directory for it, apart for processors of another kind, whose programs this one may not know."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return ""
    return str(Path(home) / "ssljax" / f"compiled-{_processor()}")


def _processor() -> str:
    """Eight characters for what this processor can do, which a program compiled for a CPU relies on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), os.uname().machine)
    return hashlib.blake2b(flags.encode(), digest_size=4).hexdigest()


def _writable(directory: str) -> bool:
    if "://" in directory:
        return True  # jax says so itself where it is not
    try:
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)
