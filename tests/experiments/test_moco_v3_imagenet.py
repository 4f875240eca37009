"""MoCo v3's recipe against the official command: heads, rates and momentum step by step, the probe."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import moco_v3_imagenet
from ssljax import evals
from ssljax.methods.moco_v3 import MoCoV3Aux
from ssljax.optim import Pace
from ssljax.run import experiment, programs
from ssljax.types import BadInputError
from ssljax.vision import task as vision

PACE = Pace(100, 312)  # 1,281,167 pictures in batches of 4096


@pytest.fixture(scope="module")
def recipe():
    return moco_v3_imagenet.build(moco_v3_imagenet.Config())


def test_the_heads_are_the_official_ones_of_a_resnet(recipe):
    view = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params, aux = jax.eval_shape(lambda view: recipe.method(PACE).init(jax.random.key(0), {"view_1": view}), view)
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    affine = {"bias": (4096,), "scale": (4096,)}
    heads = {
        "projector": {"dense1": {"kernel": (2048, 4096)}, "bn1": affine, "dense2": {"kernel": (4096, 256)}},
        "predictor": {"dense1": {"kernel": (256, 4096)}, "bn1": affine, "dense2": {"kernel": (4096, 256)}},
    }
    assert {name: shapes[name] for name in heads} == heads
    # the projector's last BatchNorm has statistics only, the predictor has no last BatchNorm
    assert [sorted(aux.stats[name]) for name in heads] == [["bn1", "bn2"], ["bn1"]]
    assert sum(leaf.size for leaf in jax.tree.leaves(params["backbone"])) == 23_508_032


def test_blocks_start_as_their_shortcuts():
    tiny = moco_v3_imagenet.build(moco_v3_imagenet.Config(stage_sizes=(1,), width=2, hidden=4, embedding_dim=2))
    params, _ = jax.jit(tiny.method(PACE).init)(jax.random.key(0), {"view_1": jnp.zeros((2, 32, 32, 3))})
    assert not np.any(params["backbone"]["layer1_0"]["bn3"]["scale"])


def test_the_rate_follows_the_official_schedule(recipe):
    rate = recipe.optimizer(PACE).schedules["lr"]
    for step in (0, 1, 3119, 3120, 10_000, 31_199):
        epoch = step / PACE.steps_per_epoch
        want = 9.6 * epoch / 10 if epoch < 10 else 4.8 * (1 + np.cos(np.pi * (epoch - 10) / 90))
        np.testing.assert_allclose(rate(step), want, rtol=1e-5, atol=1e-7)


def test_the_momentum_follows_the_official_schedule_at_every_step(recipe):
    method = recipe.method(PACE)
    ones = {"backbone": jnp.ones(()), "projector": jnp.ones(())}
    aux = MoCoV3Aux({}, jax.tree.map(jnp.zeros_like, ones), {})
    for step in (0, 1, 311, 312, 15_599, 31_199):
        moved = method.after_update(ones, aux, jnp.int32(step))[1].key_params["backbone"]
        # of the next step, whose keys are the next ones to be made
        want = 0.01 * (1 + np.cos(np.pi * (step + 1) / 31_200)) / 2
        np.testing.assert_allclose(moved, want, rtol=1e-4, atol=1e-7)


def test_a_run_is_paced_by_its_own_data(folder, tmp_path, monkeypatch):
    seen = []

    def keep(config, recipe, task, method, optimizer):
        seen.append(method)
        raise BadInputError("enough")

    monkeypatch.setattr(programs, "compile_programs", keep)
    options = {"batch_size": 16, "size": 32, "epochs": 2, "warmup_epochs": 1, "width": 4, "stage_sizes": (1,)}
    config = moco_v3_imagenet.Config(
        workdir=str(tmp_path / "run"), data=folder, test_split="test", devices=1, compiler_check=False, **options
    )
    with pytest.raises(BadInputError, match="enough"):
        experiment.run(config, moco_v3_imagenet.build(config))
    ones = {"backbone": jnp.ones(()), "projector": jnp.ones(())}
    aux = MoCoV3Aux({}, jax.tree.map(jnp.zeros_like, ones), {})
    steps = 2 * (48 // 16)
    moved = [seen[0].after_update(ones, aux, jnp.int32(step))[1].key_params["backbone"] for step in range(steps)]
    want = [0.01 * (1 + np.cos(np.pi * (step + 1) / steps)) / 2 for step in range(steps)]
    np.testing.assert_allclose(moved, want, rtol=1e-4, atol=1e-7)


def test_the_probe_is_the_official_one(monkeypatch):
    monkeypatch.setattr(vision, "open_task", lambda config, evaluation, views: evaluation)

    def probe(**options) -> evals.ProbeConfig:
        spec: Any = moco_v3_imagenet.build(moco_v3_imagenet.Config(**options)).task()
        return spec.probe

    assert probe() == evals.MOCO_V3_R50
    assert evals.MOCO_V3_R50.rate(45) == pytest.approx(0.1 * 1024 / 256 / 2)
    assert probe(probe_batch_size=256).learning_rate == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "words"), [({"momentum": 1.5}, "momentum=1.5"), ({"temperature": 0.0}, "temperature=0")]
)
def test_bad_options_are_refused_when_the_method_is_made(options, words):
    recipe = moco_v3_imagenet.build(moco_v3_imagenet.Config(**options))
    with pytest.raises(BadInputError, match=words):
        recipe.method(PACE)
