"""SimCLR on CIFAR-10, ResNet-18.

Paper: A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709, appendix B.9
Figure: linear top-1 about 91 with ResNet-18 at 1000 epochs (the CIFAR-10 command of google-research/simclr)
Command: python -m experiments.simclr_cifar10 --workdir runs/simclr_cifar10
Cost: not measured
Differs: the projector's last BatchNorm has no scale; the linear figure is logistic regression on the features of
    unaugmented pictures.
"""

import dataclasses

from experiments._lars import LarsOptions, lars
from ssljax.cli.experiments import main
from ssljax.methods.simclr import simclr
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import Knn, ResNetConfig, cifar
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(LarsOptions, ResNetConfig):
    """The recipe; the defaults are the official command's."""

    epochs: int = 1000
    batch_size: int = 512
    temperature: float = 0.5
    """Temperature of the NT-Xent logits."""
    jitter_strength: float = 0.5
    """Strength of the colour jitter."""
    projector: tuple[int, ...] = (512, 512, 128)
    """Widths of the projector's layers."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    s = config.jitter_strength
    view = dataclasses.replace(views.cifar().recipes[0], jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s))
    last = {"last_batch_norm": True, "last_affine": False, "last_bias": False}
    projector = heads.mlp(config.projector, batch_norm=True, bias=False, dtype=config.dtype, **last)
    learns = simclr(config.backbone(stem="cifar"), projector, temperature=config.temperature)
    return pretraining(
        config,
        lambda pace: learns,
        lambda pace: lars(config, pace, lr_in_momentum=True),
        label="simclr",
        views=views.Views((view, view)),
        evaluation=cifar(Knn(200, 0.1, "backbone")),
    )


if __name__ == "__main__":
    main(Config, build, __doc__)
