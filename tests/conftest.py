"""Eight emulated devices, strict broadcasting, and a closing line that says which oracles were not run live."""

import os
from pathlib import Path

from tests.xla_flags import quick

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + quick(devices=8)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# PyTorch's threads wait for each other by spinning, which two workers on two cores pay for tenfold
os.environ.setdefault("OMP_NUM_THREADS", "1")
# files of tests, workers and the processes that tests start compile many programs again, most of them small;
# what one worker has half written another passes over, with the warning that pyproject.toml lets pass
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

from ssljax import sharding
from tests import oracles

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Give back what a file's tests compiled: workers would grow to gigabytes, and slow down with them."""
    yield
    jax.clear_caches()


@pytest.fixture(params=[None, 1, 2, 4, 8], ids=lambda n: f"{n or 'no'}-mesh")
def each_mesh(request):
    """Run the test without a mesh and on 1, 2, 4 and 8 devices; the value is the number of devices or None."""
    mesh = None if request.param is None else sharding.make_mesh(request.param)
    with sharding.use_mesh(mesh):
        yield request.param


def pytest_sessionfinish(session):
    # xdist workers hand what they skipped to the controller
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["golden_only"] = sorted(oracles.GOLDEN_ONLY)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    oracles.GOLDEN_ONLY.update(getattr(node, "workeroutput", {}).get("golden_only", []))


def pytest_terminal_summary(terminalreporter):
    if oracles.GOLDEN_ONLY:
        names = ", ".join(sorted(oracles.GOLDEN_ONLY))
        terminalreporter.write_line(
            f"Not run live (install '.[oracles]'), checked against tests/golden instead: {names}"
        )
