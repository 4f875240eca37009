"""MoCo on CIFAR-10: the official small-scale demo, ResNet-18.

Paper: Momentum Contrast for Unsupervised Visual Representation Learning, arXiv 1911.05722
Figure: kNN top-1 82.6 / 86.3 / 88.7 asymmetric, 85.3 / 88.5 / 89.7 symmetric at 200 / 400 / 800 epochs
    (the CIFAR-10 demo of facebookresearch/moco)
Ours: knn 48.0, linear 49.4, linear_10_per_class 31.6 against pixels knn 30.9, linear 41.4,
    linear_10_per_class 21.3; untrained knn 36.8, linear 39.8, linear_10_per_class 21.0 with data
    arrays:cifar10_jpeg.npz, epochs 7, batch_size 256, stem imagenet, stage_sizes [1, 1, 1], width 32 (18.0
    min, 2026-11-23, 1 x x86_64 CPU, c98db9f56a)
Command: python -m experiments.moco_cifar10 --workdir runs/moco_cifar10 [--symmetric] [--epochs 800]
Cost: not measured
Differs: the groups of BatchNorm are consecutive slices of the batch, the demo deals samples out in turn.
"""

import dataclasses

import jax.numpy as jnp

from ssljax import optim
from ssljax.cli import experiments as cli
from ssljax.methods.moco import moco
from ssljax.models import heads, resnet
from ssljax.run.experiment import Experiment
from ssljax.vision import task as vision
from ssljax.vision import views


@dataclasses.dataclass(frozen=True)
class Config(vision.PictureConfig):
    """The recipe; the defaults are the demo's."""

    data: str = "tfds:cifar10"
    """tfds:NAME, folder:PATH, arrays:FILE.npz or embedded:fashion_mnist."""
    epochs: int = 200
    batch_size: int = 512
    learning_rate: float = 0.06
    """At the start; half a cosine over all epochs, changed once an epoch."""
    sgd_momentum: float = 0.9
    weight_decay: float = 5e-4
    """On all parameters."""
    queue_size: int = 4096
    momentum: float = 0.99
    """Of the key encoder."""
    temperature: float = 0.1
    symmetric: bool = False
    """Sum the losses of both directions."""
    batch_norm_groups: int = 8
    """Slices of the batch with BatchNorm statistics of their own, as on so many GPUs."""
    stem: str = "cifar"
    """"cifar" (3x3, full resolution) or "imagenet" (7x7 and pool, an eighth of the cost at 32 x 32)."""
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage: ResNet-18's."""
    width: int = 64
    """Channels of the first stage."""
    embedding_dim: int = 128
    bfloat16: bool = False
    """Compute the encoders in bfloat16."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    two_views = views.cifar()
    method = moco(
        resnet.resnet(
            config.stage_sizes, stem=config.stem, width=config.width, groups=config.batch_norm_groups, dtype=dtype
        ),
        heads.linear(config.embedding_dim, dtype=dtype),
        queue_size=config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
        symmetric=config.symmetric,
    )
    pictures = vision.Pictures(config.data, views.CIFAR_MEAN, views.CIFAR_STD, knn=vision.Knn(200, 0.1, "embedding"))

    def optimizer(steps_per_epoch):
        rate = optim.per_epoch(optim.cosine(config.learning_rate, config.epochs), steps_per_epoch)
        return optim.sgd(rate, config.sgd_momentum, config.weight_decay), rate

    return Experiment(
        name="moco_cifar10",
        label="moco",
        method=method,
        views=two_views,
        optimizer=optimizer,
        batch_size=config.batch_size,
        epochs=config.epochs,
        task=lambda: vision.open_task(pictures, config, method, config.batch_size, two_views),
    )


if __name__ == "__main__":
    cli.main(Config, build, __doc__)
