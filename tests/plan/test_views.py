"""What the views' programs are made of where they run on a TPU: neither a gather nor a loop."""

import re

import jax
import jax.numpy as jnp
import pytest

from ssljax import sharding
from ssljax.vision import views


def operations(function, *arguments, **named):
    """Names of the operations that a TPU's compiler is given."""
    text = jax.jit(function).trace(*arguments, **named).lower(lowering_platforms=("tpu",)).as_text()
    return set(re.findall(r"stablehlo\.(\w+)", text))


@pytest.mark.parametrize("devices", [None, 8])
@pytest.mark.parametrize(
    ("preset", "size", "on_host"),
    [
        ("moco_v1", 224, True),
        ("moco_v2", 224, True),
        ("moco_v2", 96, False),
        ("simclr", 224, True),
        ("byol", 224, False),
        ("cifar", 32, False),
    ],
)
def test_a_tpu_is_given_neither_gather_nor_loop(preset, size, on_host, devices):
    recipe = getattr(views, preset)(size, on_host=on_host)
    whole = {"image": jax.ShapeDtypeStruct((8, size + 32, size + 32, 3), jnp.uint8)}
    batch = recipe.batch_shapes(8) if on_host else whole
    key = jax.eval_shape(lambda: jax.random.key(0))
    with sharding.use_mesh(None if devices is None else sharding.make_mesh(devices)):
        found = operations(recipe, key, **batch)
    assert {"dot_general", "multiply"} <= found or on_host
    assert not {name for name in found if "gather" in name or name == "while"}


def test_the_words_are_those_that_gathers_and_loops_have():
    def both(x, rows):
        return jax.lax.fori_loop(0, rows[0], lambda i, y: y + i, x[rows])

    found = operations(both, jax.ShapeDtypeStruct((8, 2), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.int32))
    assert {"gather", "while"} <= found
