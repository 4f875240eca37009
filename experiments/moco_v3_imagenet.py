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

from experiments._lars import LarsOptions, lars
from ssljax import evals, optim
from ssljax.cli.experiments import main
from ssljax.methods.moco_v3 import moco_v3
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import ImageNetConfig, imagenet
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(LarsOptions, ImageNetConfig):
    """The recipe; the defaults are the official command's."""

    epochs: int = 100
    batch_size: int = 4096
    learning_rate: float = 0.6
    weight_decay: float = 1e-6
    momentum: float = 0.99
    """Momentum of the key encoder at the start; it rises to 1 along half a cosine, at every step."""
    temperature: float = 1.0
    """Temperature of the InfoNCE logits."""
    hidden: int = 4096
    """Width inside projector and predictor."""
    embedding_dim: int = 256
    """Width of the embeddings."""
    probe_epochs: int = 90
    probe_batch_size: int = 1024
    probe_learning_rate: float = 0.1
    """Learning rate of the linear probe for a batch of 256; half a cosine, changed once per epoch."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    layers, plain = (config.hidden, config.embedding_dim), {"batch_norm": True, "bias": False, "last_bias": False}
    projector = heads.mlp(layers, last_batch_norm=True, last_affine=False, dtype=config.dtype, **plain)
    # the official predictor of a ResNet ends without BatchNorm, that of a ViT with one
    parts = (config.backbone(bottleneck=True, zero_init_residual=True), projector)
    parts += (heads.mlp(layers, dtype=config.dtype, **plain),)
    rate = optim.scaled_lr(config.probe_learning_rate, config.probe_batch_size)
    return pretraining(
        config,
        lambda pace: moco_v3(*parts, temperature=config.temperature, momentum=pace.rising(config.momentum)),
        lambda pace: lars(config, pace, lr_in_momentum=False),
        label="moco_v3",
        views=views.moco_v3(config.size, on_host=True),
        evaluation=imagenet(config, dataclasses.replace(evals.MOCO_V3_R50, learning_rate=rate)),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
