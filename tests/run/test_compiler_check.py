import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from ssljax.run import compiler_check as canary
from ssljax.types import BadInputError

ROOT = Path(__file__).parents[2]


def test_this_jaxlib_passes():
    canary.check()


@pytest.mark.parametrize("name", canary.STEPS)
def test_single_operations_are_those_of_jax(name):
    step, inputs = canary.STEPS[name](np.random.default_rng(1), jnp.float32)
    with jax.disable_jit():
        wanted = step(*jax.tree.map(jnp.asarray, inputs))
    found = canary._op_by_op(step, inputs)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-5 * np.abs(want).max())


def wrong(change, which):
    """A compiler that gets some leaves of some steps wrong."""

    def compiled(step, inputs):
        found = jax.jit(step)(*inputs)
        broken = [change(leaf) if which in path else leaf for path, leaf in paths(found)]
        return jax.tree.unflatten(jax.tree.structure(found), broken)

    return compiled


def paths(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.flatten_with_path(tree)[0]]


@pytest.mark.parametrize(
    ("change", "which", "said"),
    [
        (lambda x: x * 1.01, "kernel", r"convolution's training step .* in\[1\]\['kernel'\] they are 0\.01 apart"),
        (lambda x: x.at[0, 0].set(jnp.nan), "second", r"dense .*\['second'\] 1 of 16384 numbers are not finite"),
        (lambda x: x.at[0].multiply(-1), "features", r"residual network .*\['features'\] they are \S+ apart"),
    ],
)
def test_what_a_compiler_gets_wrong_is_named_with_the_flag(change, which, said, monkeypatch):
    monkeypatch.setattr(canary, "_compiled", wrong(change, which))
    with pytest.raises(BadInputError, match=said) as error:
        canary.check()
    sentence = str(error.value)
    assert jaxlib.__version__ in sentence
    assert jax.local_devices()[0].device_kind in sentence
    assert "add --xla_cpu_experimental_ynn_fusion_type= to XLA_FLAGS" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", canary.FLAG])
def test_bfloat16_with_and_without_the_flag(flags):
    code = "from ssljax.train import canary\ncanary.check(bfloat16=True)"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    # jaxlib 0.12.0's fusions of bfloat16 convolutions are at fault
    if jaxlib.__version__.startswith("0.12.0") and not flags:
        assert "BadInputError: a residual network compiled by" in ran.stderr
    else:
        assert ran.returncode == 0, ran.stderr[-2000:]
