"""MoCo v2 on ImageNet-1k, ResNet-50.

Paper: Improved Baselines with Momentum Contrastive Learning, arXiv 2003.04297
Figure: linear top-1 67.5 at 200 epochs, 71.1 at 800 epochs
Command: python -m experiments.moco_v2_imagenet --workdir gs://BUCKET/moco_v2 --workers 32 [--epochs 800]
Cost: 200 epochs take 53 hours on 8 V100 in the official repository; not measured here
Differs: true Gaussian blur instead of Pillow's three box blurs; the two crops are made on the host, all else on
    the device.
"""

import dataclasses

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.methods.moco import moco
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import ImageNetConfig, imagenet
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(ImageNetConfig):
    """The recipe; the defaults are the paper's."""

    learning_rate: float = 0.03
    """At the start and for this batch size; half a cosine over all epochs, changed once per epoch."""
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    """On all parameters."""
    queue_size: int = 65536
    momentum: float = 0.999
    """Momentum of the key encoder."""
    temperature: float = 0.2
    batch_norm_groups: int = 8
    """Slices of the batch with BatchNorm statistics of their own, as on as many GPUs."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    method = moco(
        config.backbone(bottleneck=True, groups=config.batch_norm_groups),
        heads.mlp((2048, 128), dtype=config.dtype),
        queue_size=config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
    )

    def optimizer(pace):
        return optim.sgd(pace.cosine(config.learning_rate, per_epoch=True), config.sgd_momentum, config.weight_decay)

    two, judged = views.moco_v2(config.size, on_host=True), imagenet(config)
    return pretraining(config, lambda pace: method, optimizer, label="moco", views=two, judged=judged)


if __name__ == "__main__":
    main(Config, build, __doc__)
