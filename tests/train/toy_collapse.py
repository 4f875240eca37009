"""Runs in miniature that collapse or do not: vectors through a small MLP, for the tests of the collapse alarm."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax import diagnostics, optim
from ssljax.data import loader
from ssljax.losses.contrastive import l2_normalize
from ssljax.methods import teacher as teacher_of
from ssljax.methods.moco import moco
from ssljax.methods.simclr import simclr
from ssljax.models.from_linen import from_linen
from ssljax.run import experiment
from ssljax.run.task import Task
from ssljax.types import Method, chain

WIDTH, ROWS, BATCH = 16, 256, 32


class Layers(nn.Module):
    """Dense layers with ReLU in between."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


BACKBONE, PROJECTOR = from_linen(Layers((32, 32))), from_linen(Layers((32, 8)))


def no_predictor(momentum: float = 0.5) -> Method:
    """BYOL without its predictor: the embedding follows the teacher's of the other view, and nothing else."""
    encoder = chain(backbone=BACKBONE, projector=PROJECTOR)
    stats = {"backbone": {}, "projector": {}}

    def init(key, batch):
        params, _ = encoder.init(key, batch["view_1"])
        return params, jax.tree.map(jnp.copy, params)

    def loss(params, teacher, batch, key, step):
        z = encoder.apply(params, stats, batch["view_1"], train=True, key=key)[0]
        target = encoder.apply(teacher, stats, batch["view_2"], train=True, key=key)[0]
        value = jnp.mean(jnp.sum((l2_normalize(z) - jax.lax.stop_gradient(l2_normalize(target))) ** 2, axis=1))
        return value, (teacher, {"loss": value, "embedding_std": diagnostics.embedding_std(z)})

    return Method(
        init,
        loss,
        after_update=lambda params, teacher, step: (params, teacher_of.average(teacher, params, momentum, step)),
        features=lambda params, teacher, inputs: {"embedding": encoder.apply(params, stats, inputs, train=False)[0]},
        encoder=lambda params, teacher: (params, {}),
    )


METHODS = {
    "no predictor": no_predictor,
    "moco": lambda: moco(BACKBONE, PROJECTOR, queue_size=128, momentum=0.99, shuffle=False),
    "moco, momentum 0": lambda: moco(BACKBONE, PROJECTOR, queue_size=128, momentum=0.0, shuffle=False),
    "simclr": lambda: simclr(BACKBONE, PROJECTOR),
}


@dataclasses.dataclass(frozen=True)
class Views:
    """The vector with noise, twice."""

    noise: float = 0.3

    def __call__(self, key, image):
        keys = dict(zip(("view_1", "view_2"), jax.random.split(key), strict=True))
        return {name: image + self.noise * jax.random.normal(key, image.shape) for name, key in keys.items()}


def recipe(name: str, learning_rate: float, epochs: int = 40) -> experiment.Experiment:
    """An experiment with a method of `METHODS`, eight steps an epoch, and RankMe in its evaluation."""
    vectors = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    records = [{"image": vector} for vector in vectors]

    def batches(first, last, shift):
        return loader.batches(records, batch_size=BATCH, seed=0, start_step=first, num_steps=last, shift=shift)

    def monitor(learner):
        found = learner.method.features(learner.params, learner.aux, jnp.asarray(vectors))
        return {"rankme": float(diagnostics.rankme(list(found.values())[-1]))}

    task = Task(
        examples=ROWS,
        batches=batches,
        samples=lambda step, shift: [step + shift],
        fingerprint="vectors",
        batch_shapes=({"image": jax.ShapeDtypeStruct((BATCH, WIDTH), np.float32)},),
        monitor=monitor,
        evaluations=lambda rows: {},
        inputs=jax.ShapeDtypeStruct((BATCH, WIDTH), np.float32),
        page=lambda learner, log: {},
        export=lambda learner, directory: "Nothing is exported.",
    )
    method = METHODS[name]()
    return experiment.Experiment(
        name="toy",
        label="toy",
        method=lambda pace: method,
        views=Views(),
        optimizer=lambda pace: optim.Optimizer(*optax.sgd(learning_rate, 0.9), {}),
        batch_size=BATCH,
        task=lambda: task,
        epochs=epochs,
    )
