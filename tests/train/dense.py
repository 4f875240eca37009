"""A run in miniature without a convolution, for the tests of the loop: pictures on the devices, a single matrix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax import optim
from ssljax.data import loader
from ssljax.data.order import batch_indices
from ssljax.run import experiment
from ssljax.run.task import Task
from ssljax.types import Method
from ssljax.vision import views

SIDE, PICTURES, BATCH, SEED = 8, 40, 8, 3
PER_EPOCH = PICTURES // BATCH
VIEW = views.View(size=6, scale=(0.3, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, grey=0.2)


def method():
    """Two views of a picture through one matrix shall come out alike; `aux` follows the matrix."""

    def init(key, batch):
        kernel = jax.random.normal(key, (VIEW.size**2 * 3, 4)) / 10
        return {"kernel": kernel}, {"ema": jnp.copy(kernel)}

    def loss(params, aux, batch, key, step):
        del step
        a, b = (batch[name].reshape(len(batch[name]), -1) @ params["kernel"] for name in ("a", "b"))
        noise = jax.random.normal(key, (4,))
        value = jnp.mean((a - b + noise[None]) ** 2) - jnp.mean(jnp.abs(a))
        return value, (aux, {"loss": value})

    def after_update(params, aux, step):
        return params, {"ema": 0.9 * aux["ema"] + 0.1 * params["kernel"]}

    def features(params, aux, inputs):
        return {"embedding": inputs.reshape(len(inputs), -1) @ params["kernel"]}

    return Method(init, loss, after_update, features, encoder=lambda params, aux: (params, {}))


@dataclasses.dataclass(frozen=True)
class Views:
    """Two views; NaN where a picture of the batch is all white."""

    def __call__(self, key, image):
        white = jnp.any(jnp.min(image.reshape(len(image), -1), axis=1) == 255)
        keys = jax.random.split(key)
        made = {name: views.augment(k, image, VIEW) for name, k in zip("ab", keys, strict=True)}
        return jax.tree.map(lambda view: jnp.where(white, jnp.nan, view), made)


def source(white=()):
    """Records in memory, those with the numbers `white` all white."""
    pixels = np.random.default_rng(0).integers(0, 255, (PICTURES, SIDE, SIDE, 3), np.uint8)
    pixels[list(white)] = 255
    return [{"image": picture} for picture in pixels]


def parts(found):
    """`(task, method, optimizer)` of an experiment."""
    task = found.task()
    pace = found.pace(task.examples)
    return task, found.method(pace), found.optimizer(pace)


def undrawn(task, first, last, shift):
    """What the steps `first` to `last` draw from."""
    return task.undrawn(first, last, shift)


def recipe(white=(), *, resident=True, epochs=4, events=None):
    """An experiment on such pictures; what the run does is noted in `events`."""
    records, events = source(white), [] if events is None else events

    def batches(first, last, shift, undrawn=False):
        place = {"resident_bytes": None if resident else 0, "undrawn": undrawn}
        return loader.batches(
            records, batch_size=BATCH, seed=SEED, start_step=first, num_steps=last, shift=shift, **place
        )

    def monitor(learner):
        events.append(float(jnp.sum(learner.params["kernel"])))
        return {"sum": events[-1]}

    def evaluations(rows):
        return {label: lambda row=label: {row: {"sum": float(jnp.sum(rows[row].params["kernel"]))}} for label in rows}

    task = Task(
        examples=PICTURES,
        batches=batches,
        undrawn=lambda *steps: batches(*steps, undrawn=True),
        samples=lambda step, shift: batch_indices(SEED, step + shift, size=PICTURES, batch_size=BATCH).tolist(),
        fingerprint="made up",
        batch_shapes=({"image": jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), np.uint8)},),
        monitor=monitor,
        evaluations=evaluations,
        page=lambda learner, log: {},
        export=lambda learner, directory: "Nothing is exported.",
    )
    learns = method()
    return experiment.Experiment(
        name="dense",
        label="dense",
        method=lambda pace: learns,
        views=Views(),
        optimizer=lambda pace: optim.Optimizer(*optax.adam(1e-2), {"lr": pace.cosine(1e-2)}),
        batch_size=BATCH,
        task=lambda: task,
        epochs=epochs,
    )
