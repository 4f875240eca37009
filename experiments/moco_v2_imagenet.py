"""MoCo v2 on ImageNet-1k, ResNet-50.

Paper: Improved Baselines with Momentum Contrastive Learning, arXiv 2003.04297
Figure: linear top-1 67.5 at 200 epochs, 71.1 at 800 epochs
Command: python -m experiments.moco_v2_imagenet --workdir gs://BUCKET/moco_v2 --workers 32 [--epochs 800]
Cost: 200 epochs take 53 hours on 8 V100 in the official repository; not measured here
Differs: true Gaussian blur instead of Pillow's three box blurs; the two crops are made on the host, all else on
    the device.
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
    """The recipe; the defaults are the paper's, with half a cosine that changes once per epoch."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    learns = method(config, heads.mlp((2048, 128), dtype=config.dtype), bottleneck=True)
    return pretraining(
        config,
        lambda pace: learns,
        lambda pace: sgd(config, pace.cosine(config.learning_rate, per_epoch=True)),
        label="moco",
        views=views.moco_v2(config.size, on_host=True),
        evaluation=imagenet(config),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
