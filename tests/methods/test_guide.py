"""The example of `ssljax/methods/README.md` is built as it stands there, and trains."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.optim import Pace
from ssljax.plan.compiling import kind_of
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from ssljax.vision import views

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ssljax" / "methods" / "README.md").read_text()
FILES = ("ssljax/methods/agree.py", "experiments/agree_cifar10.py")
PACE = Pace(epochs=4, steps_per_epoch=2)


@pytest.fixture(scope="module")
def example():
    """The modules of the page's blocks, as if they were files of the project."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.M | re.S)
    modules = []
    with pytest.MonkeyPatch.context() as patch:
        for file, block in zip(FILES, blocks, strict=True):
            assert f"`{file}`" in PAGE
            name = file.removesuffix(".py").replace("/", ".")
            module = types.ModuleType(name)
            module.__file__ = str(ROOT / file)
            patch.setitem(sys.modules, name, module)
            exec(compile(block, f"{file} of the page", "exec"), module.__dict__)
            modules.append(module)
        yield modules


@pytest.fixture(scope="module")
def experiment(example):
    """The page's, with an encoder and views that are small."""
    built = example[1].build(example[1].Config(stage_sizes=(1,), width=8, batch_size=8, embedding_dim=16))
    return dataclasses.replace(built, views=views.Views((views.View(size=8),) * 2))


def train(experiment, steps):
    """Parameters and aux after each step, from step 0, and its metrics, of the same eight random pictures."""
    batch = {"image": np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8)}
    method, optimizer = experiment.method(PACE), experiment.optimizer(PACE)
    state = init_state(method, optimizer, experiment.views, batch, seed=0)
    step = compile_step(method, experiment.views, optimizer)
    seen = [(jax.device_get((state.params, state.aux)), {})]
    for _ in range(steps):
        state, metrics = step(state, sharding.shard_batch(batch))
        seen.append((jax.device_get((state.params, state.aux)), metrics))
    return seen


@pytest.fixture(scope="module")
def seen(experiment):
    return train(experiment, 3)


def test_the_example_trains_and_its_teacher_follows(experiment, seen):
    assert (experiment.name, experiment.label) == ("agree_cifar10", "agree")
    for step in range(3):
        (_, before), (student, after) = seen[step][0], seen[step + 1][0]
        momentum = float(PACE.rising(0.99)(step + 1))
        assert float(seen[step + 1][1]["momentum"]) == pytest.approx(momentum)
        for name in ("backbone", "projector"):
            expected = jax.tree.map(
                lambda old, new, m=momentum: m * old + (1 - m) * new, before.teacher_params[name], student[name]
            )
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.teacher_params[name], expected)
    losses = [float(metrics["loss"]) for _, metrics in seen[1:]]
    assert np.isfinite(losses).all()
    assert all(0 <= loss <= 8 for loss in losses)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), seen[0][0][0], seen[-1][0][0])
    assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
def test_its_losses_are_the_same_on_four_devices(experiment, seen):
    with sharding.use_mesh(sharding.make_mesh(4)):
        split = [float(metrics["loss"]) for _, metrics in train(experiment, 2)[1:]]
    np.testing.assert_allclose(split, [float(metrics["loss"]) for _, metrics in seen[1:3]], rtol=1e-5)


def test_it_gives_features_and_an_encoder(experiment):
    method, pictures = experiment.method(PACE), jnp.zeros((2, 8, 8, 3))
    params, aux = method.init(jax.random.key(0), {"view_1": pictures, "view_2": pictures})
    features = method.features(params, aux, pictures)
    assert {name: values.shape for name, values in features.items()} == {"backbone": (2, 8), "embedding": (2, 16)}
    backbone, stats = method.encoder(params, aux)
    assert jax.tree.structure(backbone) == jax.tree.structure(params["backbone"])
    assert jax.tree.structure(stats) == jax.tree.structure(aux.stats["backbone"])


def test_the_fields_kinds_are_those_of_the_page(example):
    names = [field.name for field in example[0].AgreeAux.__dataclass_fields__.values()]
    assert [kind_of(["aux", name]) for name in names] == ["batch statistics", "EMA", "batch statistics"]
    assert [kind_of(["aux", name]) for name in ("queue", "centre")] == ["queue", "other"]
