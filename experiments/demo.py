"""MoCo on the embedded Fashion-MNIST: a few minutes on two CPU cores.

Paper: none; the method is MoCo v2, arXiv 2003.04297, at a small scale
Figure: none
Command: make demo
Cost: about four minutes on two CPU cores
Differs: everything but the method: a ResNet of three blocks, 12,000 pictures of 28 x 28, a queue of 4,096, BatchNorm
    in the projector, weak crops and no flips, chosen on a sixth of the training pictures.
"""

import dataclasses

from experiments._moco import MoCoOptions, method, sgd
from ssljax.cli.experiments import main
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision.config import Knn, Pictures, ResNetConfig
from ssljax.vision.task import pretraining
from ssljax.vision.views import View, Views

MEAN, STD = (0.286,), (0.353,)


@dataclasses.dataclass(frozen=True)
class Config(MoCoOptions, ResNetConfig):
    """The demo's settings."""

    data: str = "embedded:fashion_mnist"
    epochs: int = 34
    batch_size: int = 128
    eval_every: int = 6
    stage_sizes: tuple[int, ...] = (1, 1, 1)
    width: int = 24
    batch_norm_groups: int = 4
    learning_rate: float = 0.15
    """Peak learning rate; cosine decay to 0 after a warm-up of one epoch."""
    weight_decay: float = 5e-4
    queue_size: int = 4096
    momentum: float = 0.99
    temperature: float = 0.3
    projector: tuple[int, ...] = (256, 64)
    """Output dimensions of the projector's layers."""
    crop: tuple[float, float] = (0.6, 1.0)
    """Smallest and largest area of the random crops, as shares of the image."""
    jitter: float = 0.4
    """Strength of the jitter of brightness and contrast."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    jitter = (config.jitter, config.jitter, 0.0, 0.0)
    # no flip: all shoes point to the left
    view = View(size=28, scale=config.crop, flip=0.0, jitter=jitter, jitter_prob=0.8, mean=MEAN, std=STD)
    learns = method(config, heads.mlp(config.projector, batch_norm=True, bias=False))
    return pretraining(
        config,
        lambda pace: learns,
        lambda pace: sgd(config, pace.cosine(config.learning_rate, warmup_epochs=1)),
        label="moco",
        views=Views((view, view)),
        evaluation=Pictures(MEAN, STD, knn=Knn(20, 0.1, "backbone"), bank=4000, writer="torchvision"),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
