"""MoCo v3 on ImageNet-1k, ResNet-50.

Paper: An Empirical Study of Training Self-Supervised Vision Transformers, arXiv 2104.02057
Figure: linear top-1 68.9 at 100 epochs, 72.8 at 300 epochs, 74.6 at 1000 epochs (facebookresearch/moco-v3)
Command: python -m experiments.moco_v3_imagenet --workdir gs://BUCKET/moco_v3 --workers 32
    [--epochs 300 --learning-rate .3] [--epochs 1000 --learning-rate .3 --weight-decay 1.5e-6 --momentum .996]
Cost: fits 16 V100 of 32 GB in the official repository; not measured here
Differs: true Gaussian blur instead of Pillow's three box blurs; the two crops are made on the host, all else on
    the device; bfloat16 instead of float16 with scaled losses.
"""

import dataclasses

from ssljax import evals, optim
from ssljax.cli.experiments import main
from ssljax.methods.moco_v3 import moco_v3
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import ImageNetConfig, imagenet
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(ImageNetConfig):
    """The recipe; the defaults are the official command's."""

    epochs: int = 100
    batch_size: int = 4096
    learning_rate: float = 0.6
    """For a batch of 256; LARS, half a cosine after the warm-up, changed at every step."""
    warmup_epochs: int = 10
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-6
    """On kernels only."""
    momentum: float = 0.99
    """Momentum of the key encoder at the start; it rises to 1 along half a cosine, at every step."""
    temperature: float = 1.0
    hidden: int = 4096
    """Width inside projector and predictor."""
    embedding_dim: int = 256
    probe_epochs: int = 90
    probe_batch_size: int = 1024
    probe_learning_rate: float = 0.1
    """For a batch of 256; half a cosine, changed once per epoch."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    backbone, layers = config.backbone(bottleneck=True, zero_init_residual=True), (config.hidden, config.embedding_dim)
    plain = {"batch_norm": True, "bias": False, "last_bias": False, "dtype": config.dtype}
    projector = heads.mlp(layers, last_batch_norm=True, last_affine=False, **plain)
    # the official predictor of a ResNet ends without BatchNorm, that of a ViT with one
    predictor = heads.mlp(layers, **plain)
    peak, probe_rate = (
        optim.scaled_lr(rate, size)
        for rate, size in (
            (config.learning_rate, config.batch_size),
            (config.probe_learning_rate, config.probe_batch_size),
        )
    )

    def method(pace):
        momentum = pace.rising(config.momentum)
        return moco_v3(backbone, projector, predictor, temperature=config.temperature, momentum=momentum)

    def optimizer(pace):
        rate = pace.cosine(peak, warmup_epochs=config.warmup_epochs)
        return optim.lars(rate, lr_in_momentum=False, momentum=config.sgd_momentum, weight_decay=config.weight_decay)

    two = views.moco_v3(config.size, on_host=True)
    judged = imagenet(config, dataclasses.replace(evals.MOCO_V3_R50, learning_rate=probe_rate))
    return pretraining(config, method, optimizer, label="moco_v3", views=two, judged=judged)


if __name__ == "__main__":
    main(Config, build, __doc__)
