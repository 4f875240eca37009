"""MoCo v1 on ImageNet-1k, ResNet-50.

Paper: Momentum Contrast for Unsupervised Visual Representation Learning, arXiv 1911.05722
Figure: linear top-1 60.6 at 200 epochs
Command: python -m experiments.moco_v1_imagenet --workdir gs://BUCKET/moco_v1 --workers 32
Cost: 53 hours on 8 V100 in the official repository; not measured here
Differs: the two crops are made on the host, all else on the device.
"""

import dataclasses

from experiments._moco import MoCoOptions, method, sgd
from ssljax.cli.experiments import main
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import ImageNetConfig, imagenet
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(MoCoOptions, ImageNetConfig):
    """The recipe; the defaults are the paper's."""

    milestones: tuple[int, ...] = (120, 160)
    """Epochs at which the learning rate is divided by 10."""
    temperature: float = 0.07


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    learns = method(config, heads.linear(128, dtype=config.dtype), bottleneck=True)
    return pretraining(
        config,
        lambda pace: learns,
        lambda pace: sgd(config, pace.decay(config.learning_rate, config.milestones)),
        label="moco",
        views=views.moco_v1(config.size, on_host=True),
        evaluation=imagenet(config),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
