"""SimCLR on CIFAR-10, ResNet-18.

Paper: A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709, appendix B.9
Figure: linear top-1 about 91 with ResNet-18 at 1000 epochs (the CIFAR-10 command of google-research/simclr)
Ours: not run
Command: python -m experiments.simclr_cifar10 --workdir runs/simclr_cifar10
Cost: not measured
Differs: the projector's last BatchNorm has no scale; the linear figure is logistic regression on the features of
    unaugmented pictures.
"""

import dataclasses

import jax.numpy as jnp

from ssljax import optim
from ssljax.cli import experiments as cli
from ssljax.methods.simclr import simclr
from ssljax.models import heads, resnet
from ssljax.run.experiment import Experiment
from ssljax.vision import task as vision
from ssljax.vision import views


@dataclasses.dataclass(frozen=True)
class Config(vision.PictureConfig):
    """The recipe; the defaults are the official command's."""

    data: str = "tfds:cifar10"
    """tfds:NAME, folder:PATH, arrays:FILE.npz or embedded:fashion_mnist."""
    epochs: int = 1000
    batch_size: int = 512
    learning_rate: float = 1.0
    """For a batch of 256; LARS, half a cosine after the warm-up."""
    warmup_epochs: int = 10
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    """On kernels only."""
    temperature: float = 0.5
    jitter_strength: float = 0.5
    projector: tuple[int, ...] = (512, 512, 128)
    """Outputs of its layers."""
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage: ResNet-18's."""
    width: int = 64
    """Channels of the first stage."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    s = config.jitter_strength
    recipe = dataclasses.replace(views.cifar().view_1, jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s))
    two_views = views.TwoViews(recipe, recipe)
    projector = heads.mlp(
        config.projector,
        batch_norm=True,
        last_batch_norm=True,
        last_affine=False,
        bias=False,
        last_bias=False,
        dtype=dtype,
    )
    backbone = resnet.resnet(config.stage_sizes, stem="cifar", width=config.width, dtype=dtype)
    method = simclr(backbone, projector, temperature=config.temperature)
    pictures = vision.Pictures(config.data, views.CIFAR_MEAN, views.CIFAR_STD, knn=vision.Knn(200, 0.1, "backbone"))

    def optimizer(steps_per_epoch):
        rate = optim.cosine(
            optim.scaled_lr(config.learning_rate, config.batch_size),
            config.epochs * steps_per_epoch,
            config.warmup_epochs * steps_per_epoch,
        )
        lars = optim.lars(rate, lr_in_momentum=True, momentum=config.sgd_momentum, weight_decay=config.weight_decay)
        return lars, rate

    return Experiment(
        name="simclr_cifar10",
        label="simclr",
        method=method,
        views=two_views,
        optimizer=optimizer,
        batch_size=config.batch_size,
        epochs=config.epochs,
        task=lambda: vision.open_task(pictures, config, method, config.batch_size, two_views),
    )


if __name__ == "__main__":
    cli.main(Config, build, __doc__)
