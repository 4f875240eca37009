"""Compilations in processes of their own: libtpu writes to the terminal, keeps a lock and may crash."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ssljax.types import BadInputError

# the compiler nests its cost models deeper than its threads' stacks reach: a scanned BERT overflows the default
_STACK = "--fibers_default_thread_stack_size=8388608"
_SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # the devices are described, not attached
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # would be asked there; irrelevant for a described slice
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compiling touches no chip, so a training run beside it may continue
}


def libtpu_version() -> str:
    """The version of libtpu.

    Raises:
        BadInputError: it is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise BadInputError("libtpu, which compiles for TPUs on any machine, is missing; pip install 'ssljax[plan]'.")
    return importlib.metadata.version("libtpu")


def ask(request: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
    """Run a request of `ssljax.plan.compiling` in a process of its own.

    Args:
        request: `{"what": "step" or "views", ...}`, the arguments of that function.
        timeout: seconds; None means no limit.

    Raises:
        BadInputError: the request is invalid, libtpu is missing, locked or fails.
    """
    libtpu_version()
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request))
        command = [sys.executable, "-m", "ssljax.plan.compiling", str(asked), str(answer)]
        ran = subprocess.run(command, env=environment(os.environ), capture_output=True, text=True, timeout=timeout)
        if not answer.exists():
            raise BadInputError(why(ran.returncode, ran.stderr))
        found = json.loads(answer.read_text())
    if "refused" in found:
        raise BadInputError(found["refused"])
    return found


def environment(present: Any) -> dict[str, str]:
    """The child's: the settings above over the present ones, and the module's own way in front of its path."""
    flags = f"{present.get('LIBTPU_INIT_ARGS', '')} {_STACK}".strip()
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, present.get("PYTHONPATH", "")) if part)
    return {**present, **_SETTINGS, "LIBTPU_INIT_ARGS": flags, "PYTHONPATH": path}


def why(code: int, said: str) -> str:
    """One sentence for a compilation that ended without an answer."""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    if "lockfile" in said or "already in use" in said:
        return (
            "libtpu is locked by another process of this machine: end it, or remove its libtpu_lockfile if there is "
            "none."
        )
    if code < 0:
        return f"libtpu {libtpu_version()} crashed while compiling (signal {-code}); try another version of it."
    return f"the compilation failed: {last[:300].rstrip('.')}."
