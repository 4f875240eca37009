"""A trained encoder from its file: pictures in, vectors out, without the run that trained it."""

import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax.data import loader
from ssljax.evals import features
from ssljax.interop import torchvision
from ssljax.interop.safetensors_file import read_metadata, read_safetensors
from ssljax.models.resnet import resnet
from ssljax.train import buckets
from ssljax.types import BadInputError, Encoder, PyTree
from ssljax.vision import pictures
from ssljax.vision.config import Preprocessing
from ssljax.vision.export import EXPORTED, METADATA
from ssljax.vision.sources import Source
from ssljax.vision.views import normalize
from ssljax.vision.views.presets import IMAGENET_MEAN, IMAGENET_STD

IMAGENET = Preprocessing(224, 256, IMAGENET_MEAN, IMAGENET_STD)  # torchvision's and timm's, where a file says nothing
AT_ONCE = 2048  # pictures in memory at a time


class PictureEncoder(NamedTuple):
    """A frozen encoder of pictures.

    Attributes:
        name: the file that it comes from.
        encoder: images float [B, size, size, C] -> features [B, D].
        params: its parameters.
        stats: its batch statistics.
        preprocessing: how a picture is prepared.
        channels: C.
        notes: sentences for the user.
    """

    name: str
    encoder: Encoder
    params: PyTree
    stats: PyTree
    preprocessing: Preprocessing
    channels: int
    notes: tuple[str, ...] = ()

    def untrained(self, seed: int = 0) -> "PictureEncoder":
        """The same architecture with random weights."""
        params, stats = jax.jit(self.encoder.init)(jax.random.key(seed), self._inputs())
        return self._replace(params=params, stats=stats)

    def _inputs(self) -> Any:
        size = self.preprocessing.size
        return np.zeros((1, size, size, self.channels), np.float32)


def _find(run: str) -> Any:
    """The encoder's file of a run on pictures, of a directory that `ssljax export` made, or `run` itself."""
    from etils import epath

    path = epath.Path(run).expanduser()
    return path if path.suffix == ".safetensors" else path / EXPORTED


def read_file(run: str, option: str = "run") -> tuple[str, dict[str, np.ndarray], dict[str, str]]:
    """The encoder's file of a run, or a file: its path, its arrays by torchvision's names, and its metadata.

    Args:
        run: as `load_encoder`.
        option: that it is the value of.

    Raises:
        BadInputError: there is no such run or file, or it is damaged.
    """
    buckets.check_reachable(run, option)
    path = _find(run)
    if not path.exists():
        raise BadInputError(
            f"{option}={run}: there is no {path.name}; give the directory of a finished run on pictures, or a "
            ".safetensors file."
        )
    with buckets.local_copy(path.parent) as here:
        return str(path), read_safetensors(here / path.name), read_metadata(here / path.name)


def load_encoder(run: str) -> PictureEncoder:
    """The encoder of a finished run on pictures, or of a ResNet's file from ssljax, timm or torchvision.

    Args:
        run: directory that holds `backbone.safetensors`, or the path of a `.safetensors` file.

    Raises:
        BadInputError: there is none, or it cannot be used.
    """
    name, state, metadata = read_file(run)
    try:
        found = torchvision.architecture(state)
        channels = found.pop("channels")
        encoder = resnet(**found)
        held = json.loads(metadata.get(METADATA, "{}"))
        said = Preprocessing(*(held.get(field, default) for field, default in IMAGENET._asdict().items()))
        preprocessing = said._replace(mean=tuple(said.mean), std=tuple(said.std))
        inputs = jax.ShapeDtypeStruct((1, 64, 64, channels), np.float32)
        weights = torchvision.from_torchvision(state, like=jax.eval_shape(encoder.init, jax.random.key(0), inputs))
    except BadInputError as error:
        raise BadInputError(f"{name}: {error}") from error
    if len(preprocessing.mean) not in (1, channels):
        raise BadInputError(
            f"{name}: the encoder takes {channels} channels, and the file does not say their mean and std; "
            "use a file that ssljax has written."
        )
    note = f"{name} does not say how pictures are prepared: to 256, central 224, with ImageNet's mean and std."
    return PictureEncoder(name, encoder, *weights, preprocessing, channels, () if held else (note,))


class Piece(NamedTuple):
    """Some pictures of a set as an encoder is given them.

    Attributes:
        indices: their positions in the set, int[n].
        images: uint8[n, size, size, C].
        labels: int[n], or None.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None


def prepared(encoder: PictureEncoder, source: Source) -> Iterator[Piece]:
    """All pictures of a set in order, a limited number at a time; those that the set skips are left out.

    Raises:
        BadInputError: the pictures have another number of channels than the encoder takes, or cannot be read.
    """
    channels = source[0]["image"].shape[-1]
    if channels != encoder.channels:
        raise BadInputError(
            f"{source.name} has pictures of {channels} channels, and {encoder.name} takes {encoder.channels}; "
            "give pictures like those that it was trained on."
        )
    transform = pictures.resize_center(encoder.preprocessing.size, encoder.preprocessing.resize)
    for start in range(0, len(source), AT_ONCE):
        indices = range(start, min(start + AT_ONCE, len(source)))
        part = loader.load_all(source, transform=transform, indices=indices)
        read = np.array([source.picture_name(index) not in source.bad for index in indices])
        labels = part["label"][read] if "label" in part else None
        yield Piece(np.array(indices)[read], part["image"][read], labels)


def vectors(encoder: PictureEncoder, images: np.ndarray) -> np.ndarray:
    """The features of prepared pictures: uint8[N, size, size, C] -> float32[N, D]."""
    size = min(64, features.round_up(len(images), 8))
    apply = _apply(encoder.encoder, encoder.preprocessing)
    return features.extract(apply, (encoder.params, encoder.stats), images, batch_size=size)["backbone"]


@functools.lru_cache(maxsize=8)
def _apply(encoder: Encoder, preprocessing: Preprocessing):
    def apply(variables, images):
        images = normalize(images, preprocessing.mean, preprocessing.std)
        return {"backbone": encoder.apply(*variables, images, train=False)[0]}

    return apply
