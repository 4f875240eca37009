"""SimCLR on CIFAR-10, ResNet-18.

Paper: A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709, appendix B.9
Figure: linear top-1 about 91 with ResNet-18 at 1000 epochs (the CIFAR-10 command of google-research/simclr)
Command: python -m experiments.simclr_cifar10 --workdir runs/simclr_cifar10
Cost: not measured
Differs: the projector's last BatchNorm has no scale; the linear figure is logistic regression on the features of
    unaugmented pictures.
"""

import dataclasses

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.methods.simclr import simclr
from ssljax.models import heads
from ssljax.run.experiment import Experiment
from ssljax.vision import views
from ssljax.vision.config import Knn, ResNetConfig, cifar
from ssljax.vision.task import pretraining


@dataclasses.dataclass(frozen=True)
class Config(ResNetConfig):
    """The recipe; the defaults are the official command's."""

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


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    s = config.jitter_strength
    view = dataclasses.replace(views.cifar().recipes[0], jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s))
    last = {"last_batch_norm": True, "last_affine": False, "last_bias": False}
    projector = heads.mlp(config.projector, batch_norm=True, bias=False, dtype=config.dtype, **last)
    method = simclr(config.backbone(stem="cifar"), projector, temperature=config.temperature)
    peak = optim.scaled_lr(config.learning_rate, config.batch_size)

    def optimizer(pace):
        rate = pace.cosine(peak, warmup_epochs=config.warmup_epochs)
        return optim.lars(rate, lr_in_momentum=True, momentum=config.sgd_momentum, weight_decay=config.weight_decay)

    judged = cifar(Knn(200, 0.1, "backbone"))
    two = views.Views((view, view))
    return pretraining(config, lambda pace: method, optimizer, label="simclr", views=two, judged=judged)


if __name__ == "__main__":
    main(Config, build, __doc__)
