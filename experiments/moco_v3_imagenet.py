"""MoCo v3 on ImageNet-1k, ResNet-50.

Paper: An Empirical Study of Training Self-Supervised Vision Transformers, arXiv 2104.02057
Figure: linear top-1 68.9 at 100 epochs, 72.8 at 300 epochs, 74.6 at 1000 epochs (facebookresearch/moco-v3)
Ours: not run
Command: python -m experiments.moco_v3_imagenet --workdir gs://BUCKET/moco_v3 --workers 32
    [--epochs 300 --learning-rate .3] [--epochs 1000 --learning-rate .3 --weight-decay 1.5e-6 --momentum .996]
Cost: fits 16 V100 of 32 GB in the official repository; not measured here
Differs: true Gaussian blur instead of Pillow's three box blurs; the two crops are made on the host, all else on
    the device; bfloat16 instead of float16 with scaled losses.
"""

import dataclasses

import jax.numpy as jnp

from ssljax import ema, evals, optim
from ssljax.cli import experiments as cli
from ssljax.methods.moco_v3 import moco_v3
from ssljax.models import heads, resnet
from ssljax.run.experiment import Experiment
from ssljax.vision import task as vision
from ssljax.vision import views


@dataclasses.dataclass(frozen=True)
class Config(vision.PictureConfig):
    """The recipe; the defaults are the official command's."""

    data: str = "tfds:imagenet2012"
    """tfds:NAME, folder:PATH or arrays:FILE.npz."""
    test_split: str = "validation"
    epochs: int = 100
    batch_size: int = 4096
    learning_rate: float = 0.6
    """For a batch of 256; LARS, half a cosine after the warm-up, changed at every step."""
    warmup_epochs: int = 10
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-6
    """On kernels only."""
    momentum: float = 0.99
    """Of the key encoder at the start; it rises to 1 along half a cosine, at every step."""
    temperature: float = 1.0
    hidden: int = 4096
    """Width inside projector and predictor."""
    embedding_dim: int = 256
    size: int = 224
    """Side of the views in pixels."""
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each stage: ResNet-50's."""
    width: int = 64
    """Channels of the first stage."""
    probe_epochs: int = 90
    """Of the linear classifier at the end."""
    probe_batch_size: int = 1024
    probe_learning_rate: float = 0.1
    """For a batch of 256; half a cosine, changed once an epoch."""
    bfloat16: bool = True
    """Compute the encoders in bfloat16; parameters, statistics and loss are float32 either way."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    two_views = views.moco_v3(config.size, cropped=True)
    backbone = resnet.resnet(
        config.stage_sizes, bottleneck=True, width=config.width, zero_init_residual=True, dtype=dtype
    )
    layers = (config.hidden, config.embedding_dim)
    plain = {"batch_norm": True, "bias": False, "last_bias": False, "dtype": dtype}
    projector = heads.mlp(layers, last_batch_norm=True, last_affine=False, **plain)
    # the official predictor of a ResNet ends without BatchNorm, that of a ViT with one
    predictor = heads.mlp(layers, **plain)

    def method(momentum):
        return moco_v3(backbone, projector, predictor, temperature=config.temperature, momentum=momentum)

    def scheduled(steps_per_epoch):
        steps = config.epochs * steps_per_epoch
        return method(lambda step: ema.cosine_momentum(config.momentum, step, steps))

    def optimizer(steps_per_epoch):
        peak = optim.scaled_lr(config.learning_rate, config.batch_size)
        rate = optim.cosine(peak, config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch)
        lars = optim.lars(rate, lr_in_momentum=False, momentum=config.sgd_momentum, weight_decay=config.weight_decay)
        return lars, rate

    probe_rate = optim.scaled_lr(config.probe_learning_rate, config.probe_batch_size)
    probe = dataclasses.replace(evals.MOCO_V3_R50, learning_rate=probe_rate)
    pictures = vision.imagenet(
        config.data, config.test_split, config.size, config.probe_epochs, config.probe_batch_size, probe
    )
    first = method(config.momentum)
    return Experiment(
        name="moco_v3_imagenet",
        label="moco_v3",
        method=first,
        scheduled=scheduled,
        views=two_views,
        optimizer=optimizer,
        batch_size=config.batch_size,
        epochs=config.epochs,
        task=lambda: vision.open_task(pictures, config, first, config.batch_size, two_views),
    )


if __name__ == "__main__":
    cli.main(Config, build, __doc__)
