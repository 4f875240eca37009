"""Ten images: the classical worked example of contrastive learning, small enough to see every number.

Paper: none; the loss is log(1 + exp(-y h_i . h_j)) over all pairs
Figure: none
Command: python -m experiments.ten_images --workdir runs/ten_images
Cost: about a minute on two CPU cores
Differs: ten pictures of two kinds (five trousers, five bags), two views of each: 20 embeddings of 128 numbers,
    190 pairs. The method is written out below, in one page, as an example of one's own.
"""

import dataclasses
import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import optim, sharding
from ssljax.cli.experiments import main
from ssljax.data import loader
from ssljax.losses.contrastive import binary_contrastive, l2_normalize
from ssljax.models import heads, resnet
from ssljax.run.experiment import Experiment, RunConfig, Task
from ssljax.types import Encoder, Method, chain
from ssljax.vision import fashion_mnist, sources, views
from ssljax.vision.samples import to_pixels

MEAN, STD = (0.286,), (0.353,)
KINDS = (1, 8)  # Fashion-MNIST's trousers and bags


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """The example's settings."""

    devices: int | None = 1
    log_every: int = 20
    steps: int = 300
    """Number of steps."""
    learning_rate: float = 0.05
    """Initial learning rate; cosine decay to 0."""
    temperature: float = 0.2
    """Temperature: h is the normalized embedding over its square root, so that h_i . h_j is the cosine over it."""


def pairs(encoder: Encoder, temperature: float) -> Method:
    """Separate the pairs that are two views of one picture (y = +1) from all other pairs (y = -1)."""

    def init(key, batch):
        return encoder.init(key, batch["view_1"])

    def loss(params, aux, batch, key, step):
        del key, step
        count = len(batch["view_1"])
        both = sharding.gather(batch)
        images = jnp.concatenate([both["view_1"], both["view_2"]])
        z, stats = encoder.apply(params, aux, images, train=True)
        h = l2_normalize(z) / jnp.sqrt(temperature)
        i, j = np.array(list(itertools.combinations(range(2 * count), 2))).T
        y = np.where(j == i + count, 1, -1)
        # ten positives among 190 pairs: both kinds of pair weigh the same
        alike, unlike = np.flatnonzero(y == 1), np.flatnonzero(y == -1)
        attract, repel = (binary_contrastive(h[i[k]], h[j[k]], jnp.asarray(y[k])) for k in (alike, unlike))
        value = (attract + repel) / 2
        return value, (stats, {"loss": value})

    def features_of(params, aux, images):
        return {"embedding": l2_normalize(encoder.apply(params, aux, images, train=False)[0])}

    return Method(
        init=init,
        loss=loss,
        after_update=lambda params, aux, step: (params, aux),
        features=features_of,
        encoder=lambda params, aux: (params, aux),
    )


def ten_pictures() -> tuple[np.ndarray, np.ndarray]:
    """uint8[10, 28, 28, 1], five of each kind, and their kinds int[10]."""
    everything = loader.load_all(sources.open_source("embedded:fashion_mnist", "train"))
    rows = np.concatenate([np.flatnonzero(everything["label"] == kind)[:5] for kind in KINDS])
    return everything["image"][rows], everything["label"][rows]


def open_task(two_views: views.Views) -> Task:
    """The ten pictures, all in every batch; evaluated by the similarities of their twenty fixed views."""
    images, kinds = ten_pictures()
    shown = {name: np.asarray(view) for name, view in two_views(jax.random.key(1), image=images).items()}
    both = jnp.concatenate([shown["view_1"], shown["view_2"]])
    labels = np.concatenate([kinds, kinds])
    before = {}

    def embed(learner):
        return _features(learner.method, learner.params, learner.aux, both)

    def monitor(learner):
        return _similarities(embed(learner), labels)

    def evaluations(rows):
        before["matrix"] = _cosines(embed(rows["untrained"]))
        return {label: lambda row=label: {row: monitor(rows[row])} for label in rows}

    def page(learner, log):
        del log
        from ssljax.train.report.matrix_plots import similarity_matrix

        after = _cosines(embed(learner))
        figure = similarity_matrix(before["matrix"], after, labels, fashion_mnist.CLASS_NAMES)
        caption = "Cosine similarity of all pairs of the 20 embeddings, before and after training."
        return {
            "samples": {"image": images} | {name: to_pixels(v, MEAN, STD) for name, v in shown.items()},
            "figures": [(caption, figure)],
        }

    return Task(
        examples=len(images),
        batches=lambda first, last, shift: (sharding.shard_batch({"image": images}) for _ in range(first, last)),
        samples=lambda step, shift: list(range(len(images))),
        fingerprint=hashlib.sha256(images.tobytes()).hexdigest()[:16],
        batch_shapes=({"image": jax.ShapeDtypeStruct(images.shape, images.dtype)},),
        monitor=monitor,
        evaluations=evaluations,
        page=page,
        export=lambda learner, directory: "No encoder is exported: the example is too small to be of use.",
        inputs=jax.ShapeDtypeStruct(shown["view_1"].shape, np.float32),
        features=("embedding",),
    )


@functools.partial(jax.jit, static_argnums=0)
def _embedding(method: Method, params, aux, images):
    return method.features(params, aux, images)["embedding"]


def _features(method: Method, params, aux, images) -> np.ndarray:
    return np.asarray(_embedding(method, params, aux, images))


def _cosines(z: np.ndarray) -> np.ndarray:
    return z @ z.T


def _similarities(z: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean cosine (times 100) of three sorts of pairs."""
    cosine, count = 100 * _cosines(z), len(z) // 2
    picture = np.arange(2 * count) % count
    same = picture[:, None] == picture[None, :]
    kind = labels[:, None] == labels[None, :]
    return {
        "same_picture": float(cosine[same & ~np.eye(2 * count, dtype=bool)].mean()),
        "same_kind": float(cosine[kind & ~same].mean()),
        "other_kind": float(cosine[~kind].mean()),
    }


def build(config: Config) -> Experiment:
    """The experiment of `config`."""
    recipe = views.View(size=28, scale=(0.5, 1.0), jitter=(0.4, 0.4, 0.0, 0.0), jitter_prob=0.8, mean=MEAN, std=STD)
    two_views = views.Views((recipe, recipe))
    encoder = chain(backbone=resnet.resnet((1, 1), width=32), projector=heads.mlp((128, 128)))
    method = pairs(encoder, config.temperature)

    return Experiment(
        name="ten_images",
        label="trained",
        method=lambda pace: method,
        views=two_views,
        optimizer=lambda pace: optim.sgd(pace.cosine(config.learning_rate)),
        batch_size=10,
        epochs=config.steps,
        task=lambda: open_task(two_views),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
