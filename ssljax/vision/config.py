"""The options of experiments on pictures, and how a recipe evaluates its representation."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from ssljax.evals import MOCO, ProbeConfig
from ssljax.models.resnet import resnet
from ssljax.run.config import RunConfig
from ssljax.types import Encoder
from ssljax.vision import views


@dataclasses.dataclass(frozen=True)
class PictureConfig(RunConfig):
    """The options of every experiment on pictures."""

    data: str = "tfds:cifar10"
    """Data set: tfds:NAME, folder:PATH, arrays:FILE.npz, packed:DIR or embedded:fashion_mnist."""
    epochs: int = 200
    """Number of passes over the data."""
    batch_size: int = 256
    """Images per step, over all devices."""
    data_dir: str | None = None
    """Directory of tensorflow-datasets; None: its default."""
    workers: int = 0
    """Number of processes that read and decode images if the set does not fit on the devices; 0: threads."""
    skip_bad: bool = False
    """Skip images that cannot be read, and count them, instead of stopping."""


@dataclasses.dataclass(frozen=True)
class ResNetConfig(PictureConfig):
    """The options of experiments with a ResNet backbone."""

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    """Number of blocks in each stage of the ResNet."""
    width: int = 64
    """Number of channels of the first stage."""
    bfloat16: bool = False
    """Compute the encoders in bfloat16; parameters, statistics and loss are always float32."""

    @property
    def dtype(self) -> Any:
        """The dtype that the encoders compute in."""
        return dtype_of(self.bfloat16)

    def backbone(self, **options: Any) -> Encoder:
        """The ResNet; `options` are those of `models.resnet.resnet`, such as `stem` and `groups`."""
        return resnet(self.stage_sizes, width=self.width, dtype=self.dtype, **options)


def dtype_of(bfloat16: bool) -> Any:
    """The dtype that the option --bfloat16 chooses."""
    return jnp.bfloat16 if bfloat16 else jnp.float32


@dataclasses.dataclass(frozen=True)
class ImageNetConfig(ResNetConfig):
    """The options of experiments on ImageNet-1k: host crops, a ResNet-50, the paper's linear probe at the end."""

    data: str = "tfds:imagenet2012"
    test_split: str = "validation"
    """Split to evaluate on."""
    size: int = 224
    """Side of the views in pixels."""
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    """Number of blocks in each stage of the ResNet; the default is ResNet-50."""
    bfloat16: bool = True
    probe_epochs: int = 100
    """Number of epochs of the linear probe at the end."""
    probe_batch_size: int = 256
    """Batch size of the linear probe."""


class Knn(NamedTuple):
    """Weighted kNN: neighbours, temperature, and which of the method's features."""

    k: int = 200
    temperature: float = 0.1
    on: str = "embedding"


KNN = Knn()


class Preprocessing(NamedTuple):
    """How a picture is prepared for an encoder: shorter side to `resize`, central square of `size`, normalised.

    Attributes:
        size: pixels a side that the encoder is given.
        resize: length of the shorter side before the central crop.
        mean: mean of each channel in [0, 1].
        std: standard deviation of each channel.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How a recipe's representation is evaluated, and in what format its encoder is exported.

    Without labels there are neither kNN nor probes: the figures of `label_free` take their place.

    Attributes:
        mean: mean of each channel in [0, 1], for evaluation; the views have their own.
        std: standard deviation of each channel, likewise.
        train: split to learn from.
        test: split to evaluate on.
        resize: length of the shorter side before the central crop at evaluation, where views are cropped on the host.
        channels: channels that encoded pictures are decoded to.
        size: side of the pictures at evaluation; None: as they are, or the first view's where that is cropped on the
            host.
        knn: what the kNN figures mean.
        bank: number of training pictures that the kNN during training searches; None: all.
        probe: None for logistic regression on cached features (all labels, and 10 labels per class), with raw pixels
            and the untrained encoder beside it; or the numbers of a paper's linear probe.
        backbone: name of the features that probes, neighbours and the map of the report read.
        embedding: name of the features whose spread is logged.
        writer: format of the exported encoder: "torchvision" for a ResNet of `models.resnet`; None: not exported.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: str = "train"
    test: str = "test"
    resize: int = 256
    size: int | None = None
    channels: Literal[1, 3] = 3
    knn: Knn = KNN
    bank: int | None = None
    probe: ProbeConfig | None = None
    backbone: str = "backbone"
    embedding: str = "embedding"
    writer: str | None = None


def cifar(knn: Knn = KNN) -> Pictures:
    """CIFAR-10 or -100 with a ResNet: kNN on all pictures, logistic regression at the end."""
    return Pictures(views.CIFAR_MEAN, views.CIFAR_STD, knn=knn, writer="torchvision")


def imagenet(config: ImageNetConfig, probe: ProbeConfig = MOCO) -> Pictures:
    """ImageNet as MoCo evaluates on it: kNN on a sample, the paper's linear probe at the end."""
    return Pictures(
        views.IMAGENET_MEAN,
        views.IMAGENET_STD,
        test=config.test_split,
        resize=config.size * 8 // 7,
        bank=50_000,
        probe=dataclasses.replace(probe, epochs=config.probe_epochs, batch_size=config.probe_batch_size),
        writer="torchvision",
    )
