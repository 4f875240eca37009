"""MoCo v2 on ImageNet-1k, ResNet-50.

Paper: Improved Baselines with Momentum Contrastive Learning, arXiv 2003.04297
Figure: linear top-1 67.5 at 200 epochs, 71.1 at 800 epochs
Ours: not run
Command: python -m experiments.moco_v2_imagenet --workdir gs://BUCKET/moco_v2 --workers 32 [--epochs 800]
Cost: 200 epochs take 53 hours on 8 V100 in the official repository; not measured here
Differs: true Gaussian blur instead of Pillow's three box blurs; the two crops are made on the host, all else on
    the device.
"""

import dataclasses

import jax.numpy as jnp

from ssljax import optim
from ssljax.cli import experiments as cli
from ssljax.methods.moco import moco
from ssljax.models import heads, resnet
from ssljax.run.experiment import Experiment
from ssljax.vision import task as vision
from ssljax.vision import views


@dataclasses.dataclass(frozen=True)
class Config(vision.PictureConfig):
    """The recipe; the defaults are the paper's."""

    data: str = "tfds:imagenet2012"
    """tfds:NAME, folder:PATH or arrays:FILE.npz."""
    test_split: str = "validation"
    epochs: int = 200
    batch_size: int = 256
    learning_rate: float = 0.03
    """At the start and for this batch size; half a cosine over all epochs, changed once an epoch."""
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    """On all parameters."""
    queue_size: int = 65536
    momentum: float = 0.999
    """Of the key encoder."""
    temperature: float = 0.2
    batch_norm_groups: int = 8
    """Slices of the batch with BatchNorm statistics of their own, as on so many GPUs."""
    size: int = 224
    """Side of the views in pixels."""
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each stage: ResNet-50's."""
    width: int = 64
    """Channels of the first stage."""
    probe_epochs: int = 100
    """Of the linear classifier at the end."""
    probe_batch_size: int = 256
    bfloat16: bool = True
    """Compute the encoders in bfloat16; parameters, statistics and loss are float32 either way."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    two_views = views.moco_v2(config.size, cropped=True)
    method = moco(
        resnet.resnet(
            config.stage_sizes,
            bottleneck=True,
            width=config.width,
            groups=config.batch_norm_groups,
            dtype=dtype,
        ),
        heads.mlp((2048, 128), dtype=dtype),
        queue_size=config.queue_size,
        momentum=config.momentum,
        temperature=config.temperature,
    )
    pictures = vision.imagenet(
        config.data, config.test_split, config.size, config.probe_epochs, config.probe_batch_size
    )

    def optimizer(steps_per_epoch):
        rate = optim.per_epoch(optim.cosine(config.learning_rate, config.epochs), steps_per_epoch)
        return optim.sgd(rate, config.sgd_momentum, config.weight_decay), rate

    return Experiment(
        name="moco_v2_imagenet",
        label="moco",
        method=method,
        views=two_views,
        optimizer=optimizer,
        batch_size=config.batch_size,
        epochs=config.epochs,
        task=lambda: vision.open_task(pictures, config, method, config.batch_size, two_views),
    )


if __name__ == "__main__":
    cli.main(Config, build, __doc__)
