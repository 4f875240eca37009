"""Compiled programs are kept from run to run, in the user's own cache directory."""

import hashlib
import os
import sys
from pathlib import Path

import jax

SECONDS = 0.1  # what takes less to compile is not worth a file


def keep(directory: str | None = None) -> str:
    """From now on look compiled programs up in a directory and leave new ones there; for the start of a run.

    Args:
        directory: None for `default()`, unless jax has been told of a directory already (JAX_COMPILATION_CACHE_DIR); ""
            to keep nothing.

    Returns:
        The directory in use; "" if there is none. One that cannot be written is named on standard error, and nothing
        is kept.
    """
    told = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if directory is None and told is not None:
        return told
    wanted = default() if directory is None else directory
    if wanted and not _writable(wanted):
        print(f"Compiled programs are not kept: {wanted} cannot be written.", file=sys.stderr)
        wanted = ""
    if wanted != (told or ""):
        jax.config.update("jax_compilation_cache_dir", wanted or None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    return wanted


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
