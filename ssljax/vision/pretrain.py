"""Pre-training on one's own pictures.

Paper: none; MoCo v2 (arXiv 2003.04297), MoCo v3 (2104.02057) or SimCLR (2002.05709) with values for small sets
Figure: none
Command: ssljax pretrain --data folder:my_pictures --workdir runs/mine
Cost: minutes to hours, see --dry-run
Differs: batch size, queue, learning rate, architecture and length follow from the pictures and the device.
"""

import dataclasses
from typing import Any, Literal

from ssljax.models.resnet import resnet
from ssljax.optim import cosine, sgd
from ssljax.run.experiment import Experiment
from ssljax.types import Encoder
from ssljax.vision.config import Knn, PictureConfig, Pictures, dtype_of
from ssljax.vision.initial import started_from
from ssljax.vision.recipes import RECIPES, Chosen
from ssljax.vision.task import pretraining
from ssljax.vision.views import View, Views

Method = Literal["moco", "moco_v3", "simclr"]
Backbone = Literal["resnet8", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
BACKBONES: dict[str, tuple[tuple[int, ...], bool]] = {  # blocks of each stage, and whether they are bottlenecks
    "resnet8": ((1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
SMALL = 64  # pixels; up to here views are not blurred and the stem keeps the resolution
WARMUP = 0.02  # of all steps


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """Pre-train an encoder on your own pictures; options that are left out are chosen from the data."""

    data: str = ""
    """Pictures, labelled or not: folder:PATH, arrays:FILE.npz, packed:DIR, tfds:NAME or embedded:fashion_mnist."""
    method: Method = "moco"
    """Method of pre-training."""
    backbone: Backbone | None = None
    """Architecture of the encoder; None: resnet8 on a CPU, else by the number of pictures."""
    width: int | None = None
    """Number of channels of the first stage; None: 64, and 32 for resnet8."""
    stem: Literal["cifar", "imagenet"] | None = None
    """First layers: "cifar" (3x3, full resolution) or "imagenet" (7x7 and pool); None: by the size."""
    size: int | None = None
    """Side of the views in pixels; None: from the pictures."""
    test_size: int | None = None
    """Side of the pictures at evaluation in pixels; None: up to 4/3 of --size, as crops show things larger."""
    epochs: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Number of passes over the pictures; None: from their number."""
    steps: int | None = None
    """Number of steps, instead of --epochs."""
    batch_size: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Pictures per step, over all devices; None: from their number."""
    eval_every: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Epochs between online evaluations, steps with --steps; None: 10, or a tenth of the steps."""
    save_every: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Epochs between checkpoints, steps with --steps; None: 10, or a tenth of the steps."""
    learning_rate: float | None = None
    """Peak learning rate, for the batch size; None: scaled with the batch size."""
    weight_decay: float = 5e-4
    """Weight decay."""
    queue_size: int | None = None
    """Number of negative keys of moco, a multiple of the batch size; None: from the number of pictures."""
    momentum: float | None = None
    """Momentum of the momentum encoder; None: the method's."""
    temperature: float | None = None
    """Temperature of the logits; None: the method's."""
    crop: float = 0.2
    """Smallest area of the random crops, as a share of the picture."""
    jitter: float = 1.0
    """Strength of the colour jitter, relative to MoCo v2's; 0: none."""
    grey: bool = False
    """Read the pictures in one channel."""
    train_split: str = "train"
    """Split to learn from."""
    test_split: str = "test"
    """Split to evaluate on; where there is none, every tenth picture of each class is held out."""
    init: str = ""
    """Weights to start from: a .safetensors file under torchvision's or timm's names, or an earlier run."""
    bfloat16: bool = False
    """Compute the encoders in bfloat16; parameters, statistics and loss are always float32."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel in [0, 1]; None: from a sample of the pictures."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, likewise."""
    one_size: bool | None = None
    """Whether all pictures have one size and are cropped on the device; None: looked up."""
    dry_run: bool = False
    """Print what is chosen, the number of steps and the memory of a step, and stop."""

    @property
    def dtype(self) -> Any:
        """The dtype that the encoders compute in."""
        return dtype_of(self.bfloat16)


def build(config: Config) -> Experiment:
    """The experiment of `config`, in which nothing is left to choose; reads no pictures.

    Raises:
        BadInputError: options do not fit together, or the weights to start from cannot be used.
    """
    chosen = Chosen(*(getattr(config, name) for name in Chosen._fields))
    encoder, features = _encoder(config, chosen)
    view, peak = _view(config, chosen), chosen.learning_rate
    return pretraining(
        config,
        lambda pace: RECIPES[config.method].method(chosen, encoder, features, config.dtype, pace),
        lambda pace: sgd(cosine(peak, pace.steps, int(WARMUP * pace.steps)), 0.9, config.weight_decay),
        label=config.method,
        views=Views((view, view), on_host=not chosen.one_size),
        evaluation=Pictures(
            chosen.mean,
            chosen.std,
            train=config.train_split,
            test=config.test_split,
            resize=chosen.test_size,
            size=chosen.test_size,
            channels=1 if config.grey else 3,
            knn=Knn(20, 0.1, "backbone"),
            bank=10_000,
            writer="torchvision",
        ),
        epochs=chosen.epochs,
        steps=config.steps,
        untrained="init" if config.init else "untrained",
    )


def _encoder(config: Config, chosen: Chosen) -> tuple[Encoder, int]:
    """The backbone, and the width of its output."""
    stages, bottleneck = BACKBONES[chosen.backbone]
    options = {"bottleneck": bottleneck, "stem": chosen.stem, "width": chosen.width, "dtype": config.dtype}
    encoder = resnet(stages, groups=_groups(RECIPES[config.method].groups, chosen.batch_size), **options)
    if config.init:
        encoder = started_from(config.init, encoder, len(chosen.mean))
    return encoder, chosen.width * 2 ** (len(stages) - 1) * (4 if bottleneck else 1)


def _groups(most: int, batch_size: int) -> int:
    """Slices of the batch for BatchNorm: up to `most`, as many as divide it and hold at least 4 pictures each.

    >>> [_groups(4, batch_size) for batch_size in (128, 8, 10, 4)]
    [4, 2, 2, 1]
    """
    return max(n for n in range(1, most + 1) if n == 1 or (batch_size % n == 0 and batch_size // n >= 4))


def _view(config: Config, chosen: Chosen) -> View:
    strength = config.jitter
    return View(
        chosen.size,
        (config.crop, 1.0),
        jitter=(0.4 * strength, 0.4 * strength, 0.4 * strength, min(0.1 * strength, 0.5)),
        jitter_prob=0.8,
        grey=0.2 if strength else 0.0,
        blur=0.5 if chosen.size > SMALL else 0.0,
        mean=chosen.mean,
        std=chosen.std,
    )
