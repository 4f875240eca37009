"""A method of one's own in one file: loss, method and recipe, from training to plan, touching no other file."""

import dataclasses
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ssljax import optim, sharding
from ssljax.methods import teacher
from ssljax.models.from_linen import from_linen
from ssljax.run import experiment
from ssljax.types import Encoder, Method, PyTree
from ssljax.vision.config import Knn, PictureConfig, Pictures
from ssljax.vision.task import pretraining
from ssljax.vision.views import View, Views

MEAN, STD = (0.286,), (0.353,)


class Patches(nn.Module):
    """A convolution over patches, and a dense layer: no ResNet."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (4, 4), (4, 4))(x))
        return nn.Dense(24)(x.mean((1, 2)))


@struct.dataclass
class Aux:
    teacher_params: PyTree


def agreement(queries, keys, targets):
    """Squared distance of the normalised student from the teacher, less the spread of the batch."""
    spread = jnp.mean(jnp.std(sharding.gather(queries), axis=0))
    return jnp.mean(jnp.sum((queries - targets) ** 2, axis=-1)) - spread + 0.0 * jnp.sum(keys)


def agreeing(encoder: Encoder, momentum) -> Method:
    """The student of three views follows the teacher of the first."""

    def init(key, batch):
        params, _ = encoder.init(key, batch["view_1"])
        return params, Aux(teacher.copy(params))

    def loss(params, aux, batch, key, step):
        views = [batch[f"view_{number}"] for number in (1, 2, 3)]
        outputs, _ = teacher.by_size(encoder, params, {}, views, key)
        (target,), _ = teacher.apart(encoder, aux.teacher_params, {}, views[:1], key)
        value = jnp.stack([agreement(output, target, target) for output in outputs[1:]]).sum()
        return value, (aux, {"loss": value, "momentum": jnp.float32(teacher.momentum_at(momentum, step + 1))})

    def after_update(params, aux, step):
        return params, Aux(teacher.average(aux.teacher_params, params, momentum, step))

    def features(params, aux, inputs):
        return {"pooled": encoder.apply(aux.teacher_params, {}, inputs, train=False)[0]}

    return Method(init, loss, after_update, features, encoder=lambda params, aux: (aux.teacher_params, {}))


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    data: str = "embedded:fashion_mnist"
    epochs: int = 2
    batch_size: int = 2000
    learning_rate: float = 0.01
    writer: str | None = None


def build(config: Config) -> experiment.Experiment:
    large = View(size=16, scale=(0.4, 1.0), mean=MEAN, std=STD)
    small = dataclasses.replace(large, size=8, scale=(0.1, 0.4))
    encoder = from_linen(Patches())
    return pretraining(
        config,
        lambda pace: agreeing(encoder, pace.rising(0.9)),
        lambda pace: optim.sgd(pace.cosine(config.learning_rate)),
        label="agreeing",
        views=Views((large, large, small)),
        evaluation=Pictures(
            MEAN, STD, knn=Knn(20, 0.1, "pooled"), bank=500, backbone="pooled", embedding="pooled", writer=config.writer
        ),
    )


def run(workdir, **options):
    config = Config(workdir=str(workdir), devices=1, log_every=2, compiler_check=False, eval_every=1, **options)
    return experiment.run(config, build(config), "A method of one's own.\n\nPaper: none")


@pytest.mark.slow
def test_it_trains_resumes_is_evaluated_and_says_that_nothing_writes_its_encoder(tmp_path, capsys):
    whole = run(tmp_path / "whole")
    assert set(whole) == {"pixels", "untrained", "agreeing"}
    assert whole["agreeing"].keys() == {"knn", "linear", "linear_10_per_class"}
    assert whole["agreeing"] != whole["untrained"]
    assert "no writer" in capsys.readouterr().out
    assert "view_3" not in (tmp_path / "whole" / "results.json").read_text()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    momenta = [row["momentum"] for row in rows if "momentum" in row]
    assert momenta == sorted(momenta)
    assert momenta[-1] == pytest.approx(1.0)
    run(tmp_path / "parts", stop_after=7)
    assert run(tmp_path / "parts", allow=("stop_after",)) == whole
    assert (tmp_path / "parts" / "report.html").read_text().count("<img") >= 3


@pytest.mark.slow
def test_a_writer_that_cannot_write_it_is_reported_and_loses_nothing(tmp_path):
    from ssljax.run.finishing import UnfinishedError

    few, labels = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8), np.arange(60) % 2
    splits = {"train_images": few, "train_labels": labels, "test_images": few[:20], "test_labels": labels[:20]}
    np.savez(tmp_path / "few.npz", **splits)
    options = {"data": f"arrays:{tmp_path}/few.npz", "batch_size": 20, "writer": "torchvision"}
    tmp_path = tmp_path / "run"
    with pytest.raises(UnfinishedError, match="is no part of a ResNet") as raised:
        run(tmp_path, **options)
    assert "export" in str(raised.value)
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "backbone.safetensors").exists()
    assert json.loads((tmp_path / "evaluations.json").read_text())["parts"].keys() == {
        "pixels",
        "untrained",
        "agreeing",
    }


def test_it_is_planned(monkeypatch):
    from ssljax.plan import recipes

    monkeypatch.setattr(recipes, "load", lambda name: sys.modules[__name__])
    recipe = recipes.read(Path(__file__).stem, ["--batch-size", "64"])
    assert recipe.stretches[0].batch["image"].shape == (64, 28, 28, 1)
    assert recipe.stretches[0].steps == 2 * (12_000 // 64)
    params, aux = recipe.method.init(*_first(recipe))
    assert recipe.method.encoder(params, aux)[0] is aux.teacher_params


def _first(recipe):
    import jax

    key = jax.random.key(0)
    return key, recipe.experiment.views(key, image=np.zeros(recipe.stretches[0].batch["image"].shape, np.uint8))
