"""Independent implementations that ours is held to, live where their library is installed, else as golden arrays.

An oracle is a function without arguments that makes its own inputs with NumPy from a fixed seed and returns
`{name: array}`; the test makes the same inputs and compares. `python -m tests.oracles` writes every oracle's arrays
to `tests/golden/`; where the library is missing a test reads those, and the run's last lines say so.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
GOLDEN_ONLY: set[str] = set()
REGISTERED: dict[str, tuple[Callable[[], dict[str, np.ndarray]], tuple[str, ...]]] = {}


def oracle(*needs: str):
    """Register an oracle that imports the modules `needs` (such as "torch") inside its body."""

    def register(function):
        REGISTERED[function.__name__] = (function, needs)
        return function

    return register


@functools.cache
def expected(name: str) -> dict[str, np.ndarray]:
    """The arrays of oracle `name`: computed now if its library is here (and equal to the golden ones), else golden."""
    function, needs = REGISTERED[name]
    with np.load(GOLDEN / f"{name}.npz") as stored:
        golden = dict(stored)
    if not all(map(importlib.util.find_spec, needs)):
        GOLDEN_ONLY.add(name)
        return golden
    live = function()
    assert live.keys() == golden.keys(), f"{name}: stale golden file; run python -m tests.oracles {name}"
    for key, value in live.items():
        np.testing.assert_allclose(value, golden[key], rtol=1e-3, atol=1e-4, err_msg=f"{name}/{key}: stale golden file")
    return live


def write(names: list[str]) -> None:
    """Compute the oracles `names` (all when empty) and store their arrays."""
    for module in sorted(Path(__file__).parent.glob("*_oracles.py")):
        importlib.import_module(f"tests.oracles.{module.stem}")
    GOLDEN.mkdir(exist_ok=True)
    for name in names or sorted(REGISTERED):
        arrays = REGISTERED[name][0]()
        np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        print(f"{name}: {', '.join(f'{key} {value.shape}' for key, value in arrays.items())}")
