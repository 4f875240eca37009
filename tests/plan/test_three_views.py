"""A plan of a recipe with three views of two sizes, cropped on the host; method and recipe stand in this file."""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import optim, sharding
from ssljax.methods import teacher
from ssljax.optim import Pace
from ssljax.plan import compiling, recipes, table
from ssljax.types import Encoder, Method
from ssljax.vision.config import Pictures, ResNetConfig
from ssljax.vision.task import pretraining
from ssljax.vision.views import View, Views
from tests.plan import answers

SIZES = (32, 32, 16)


def agreeing(backbone: Encoder) -> Method:
    """Every view's features are to be those of the others."""

    def loss(params, aux, batch, key, step):
        del step
        outputs, stats = teacher.by_size(backbone, params, aux, list(batch.values()), key)
        value = jnp.mean(jnp.var(jnp.stack(outputs), axis=0))
        return value, (stats, {"loss": value})

    return Method(
        init=lambda key, batch: backbone.init(key, batch["view_1"]),
        loss=loss,
        after_update=lambda params, aux, step: (params, aux),
        features=lambda params, aux, inputs: {"backbone": backbone.apply(params, aux, inputs, train=False)[0]},
        encoder=lambda params, aux: (params, aux),
    )


@dataclasses.dataclass(frozen=True)
class Config(ResNetConfig):
    data: str = "tfds:imagenet2012"
    epochs: int = 3
    batch_size: int = 64
    stage_sizes: tuple[int, ...] = (1,)
    width: int = 4
    learning_rate: float = 0.1


def build(config):
    return pretraining(
        config,
        lambda pace: agreeing(config.backbone(stem="cifar")),
        lambda pace: optim.sgd(pace.cosine(config.learning_rate)),
        label="agreeing",
        views=Views(tuple(View(size=size) for size in SIZES), on_host=True),
        evaluation=Pictures((0.5,) * 3, (0.25,) * 3),
    )


@pytest.fixture(autouse=True)
def _recipe(monkeypatch):
    """What stands in this file is `experiments/three_views.py`."""
    monkeypatch.setitem(sys.modules, "experiments.three_views", sys.modules[__name__])


def test_crops_arrive_by_size():
    found = recipes.read("three_views", ["--epochs", "5"])
    (stretch,) = found.stretches
    assert (stretch.label, stretch.batch_size) == ("size 32 and size 16", 64)
    assert found.pace == Pace(5, 1_281_167 // 64)
    assert stretch.steps == found.pace.steps
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in stretch.batch.items()} == {
        "crops_32": ((64, 2, 32, 32, 3), np.uint8),
        "crops_16": ((64, 1, 16, 16, 3), np.uint8),
    }


def compiled(ask: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, from this machine's devices."""
    return {"step": compiling.step, "views": compiling.views}[ask.pop("what")](**ask)


def test_the_step_compiles_over_the_devices(monkeypatch):
    monkeypatch.setattr(compiling, "mesh", lambda topology: sharding.make_mesh(topology.chips))
    asked = {"topology": "v5e-8", "name": "three_views", "options": (), "overrides": {}}
    found = compiled({"what": "step", "stretch": 0, **asked})
    assert found["memory"]["batch"] == 64 // 8 * 3 * (2 * 32 * 32 + 16 * 16)
    method = recipes.read("three_views").method
    params, _ = jax.eval_shape(method.init, jax.random.key(0), {"view_1": jnp.zeros((8, 32, 32, 3))})
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["memory"]["parameters"] == gradients
    assert found["collectives"]["all-reduce"]["payload"] >= gradients
    # of a convolution's passes each view has its share: forward and two gradients, which the pictures do not need
    pixels = 2 * 32 * 32 + 16 * 16
    inner = 2 * 64 * pixels * 9 * 4 * 4
    assert found["flops"]["convolution"] == 2 * (2 * 64 * pixels * 9 * 3 * 4) + 2 * 3 * inner
    assert compiled({"what": "views", **asked})["operations"]


def test_the_table_names_both_sizes():
    plan = answers.plan("three_views", "v5e-8", ())
    assert "size 32 and size 16: 60,054 steps of 64" in table.as_text(plan).splitlines()
