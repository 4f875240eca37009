"""MoCo on CIFAR-10: the official small-scale demo, ResNet-18.

Paper: Momentum Contrast for Unsupervised Visual Representation Learning, arXiv 1911.05722
Figure: kNN top-1 82.6 / 86.3 / 88.7 asymmetric, 85.3 / 88.5 / 89.7 symmetric at 200 / 400 / 800 epochs
    (the CIFAR-10 demo of facebookresearch/moco)
Command: python -m experiments.moco_cifar10 --workdir runs/moco_cifar10 [--symmetric] [--epochs 800]
Cost: not measured
Differs: the groups of BatchNorm are consecutive slices of the batch, the demo deals samples out in turn.
"""

import dataclasses

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.methods.moco import moco
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import ResNetConfig, cifar
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(ResNetConfig):
    """The recipe; the defaults are the demo's."""

    batch_size: int = 512
    learning_rate: float = 0.06
    """At the start; half a cosine over all epochs, changed once per epoch."""
    sgd_momentum: float = 0.9
    weight_decay: float = 5e-4
    """On all parameters."""
    queue_size: int = 4096
    momentum: float = 0.99
    """Momentum of the key encoder."""
    temperature: float = 0.1
    symmetric: bool = False
    """Sum the losses of both directions."""
    batch_norm_groups: int = 8
    """Slices of the batch with BatchNorm statistics of their own, as on as many GPUs."""
    stem: str = "cifar"
    """"cifar" (3x3, full resolution) or "imagenet" (7x7 and pool, an eighth of the cost at 32 x 32)."""
    embedding_dim: int = 128


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    method = moco(
        config.backbone(stem=config.stem, groups=config.batch_norm_groups),
        heads.linear(config.embedding_dim, dtype=config.dtype),
        queue_size=config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
        symmetric=config.symmetric,
    )

    def optimizer(pace):
        return optim.sgd(pace.cosine(config.learning_rate, per_epoch=True), config.sgd_momentum, config.weight_decay)

    return pretraining(config, lambda pace: method, optimizer, label="moco", views=views.cifar(), judged=cifar())


if __name__ == "__main__":
    main(Config, build, __doc__)
