"""MoCo on CIFAR-10: the official small-scale demo, ResNet-18.

Paper: Momentum Contrast for Unsupervised Visual Representation Learning, arXiv 1911.05722
Figure: kNN top-1 82.6 / 86.3 / 88.7 asymmetric, 85.3 / 88.5 / 89.7 symmetric at 200 / 400 / 800 epochs
    (the CIFAR-10 demo of facebookresearch/moco)
Command: python -m experiments.moco_cifar10 --workdir runs/moco_cifar10 [--symmetric] [--epochs 800]
Cost: not measured
Differs: the groups of BatchNorm are consecutive slices of the batch, the demo assigns samples round-robin.
"""

import dataclasses

from experiments._moco import MoCoOptions, method, sgd
from ssljax.cli.experiments import main
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import ResNetConfig, cifar
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(MoCoOptions, ResNetConfig):
    """The recipe; the defaults are the demo's, with half a cosine that changes once per epoch."""

    batch_size: int = 512
    learning_rate: float = 0.06
    """Initial learning rate; cosine decay over all epochs, updated once per epoch."""
    weight_decay: float = 5e-4
    queue_size: int = 4096
    momentum: float = 0.99
    temperature: float = 0.1
    symmetric: bool = False
    """Use the symmetric loss, the sum over both directions."""
    stem: str = "cifar"
    """Stem: "cifar" (3x3, full resolution) or "imagenet" (7x7 and pool, an eighth of the cost at 32 x 32)."""
    embedding_dim: int = 128
    """Dimension of the embeddings."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    projector = heads.linear(config.embedding_dim, dtype=config.dtype)
    learns = method(config, projector, symmetric=config.symmetric, stem=config.stem)
    return pretraining(
        config,
        lambda pace: learns,
        lambda pace: sgd(config, pace.cosine(config.learning_rate, per_epoch=True)),
        label="moco",
        views=views.cifar(),
        evaluation=cifar(),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
