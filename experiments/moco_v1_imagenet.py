"""MoCo v1 on ImageNet-1k, ResNet-50.

Paper: Momentum Contrast for Unsupervised Visual Representation Learning, arXiv 1911.05722
Figure: linear top-1 60.6 at 200 epochs
Command: python -m experiments.moco_v1_imagenet --workdir gs://BUCKET/moco_v1 --workers 32
Cost: 53 hours on 8 V100 in the official repository; not measured here
Differs: the two crops are made on the host, all else on the device.
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
    """At the start and for this batch size; a tenth of it from each milestone on."""
    milestones: tuple[int, ...] = (120, 160)
    """Epochs."""
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    """On all parameters."""
    queue_size: int = 65536
    momentum: float = 0.999
    """Momentum of the key encoder."""
    temperature: float = 0.07
    batch_norm_groups: int = 8
    """Slices of the batch with BatchNorm statistics of their own, as on as many GPUs."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    method = moco(
        config.backbone(bottleneck=True, groups=config.batch_norm_groups),
        heads.linear(128, dtype=config.dtype),
        queue_size=config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
    )

    def optimizer(pace):
        rate = pace.decay(config.learning_rate, config.milestones)
        return optim.sgd(rate, config.sgd_momentum, config.weight_decay)

    two, judged = views.moco_v1(config.size, on_host=True), imagenet(config)
    return pretraining(config, lambda pace: method, optimizer, label="moco", views=two, judged=judged)


if __name__ == "__main__":
    main(Config, build, __doc__)
