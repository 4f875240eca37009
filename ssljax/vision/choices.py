"""What `ssljax pretrain` chooses from the pictures and the device, where the user has not."""

import dataclasses
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax.data import loader
from ssljax.interop import torchvision
from ssljax.optim import scaled_lr
from ssljax.run import results
from ssljax.types import BadInputError
from ssljax.vision import pictures, sources
from ssljax.vision.encoder_file import read_file
from ssljax.vision.pretrain import BACKBONES, SMALL, Config
from ssljax.vision.recipes import RECIPES, Chosen
from ssljax.vision.scores import evenly
from ssljax.vision.sources import Source

FEWEST = 16  # pictures
SAMPLED, SIDE = 500, 64  # pictures, and their side, for mean and deviation
RESIDENT = 1 << 31  # bytes of decoded pictures of one size up to which they are cropped on the device
SEEN = 1_300_000  # pictures in a run on a CPU at 32 x 32: some twenty minutes of two cores


class Facts(NamedTuple):
    """What is known of the pictures.

    Attributes:
        count: how many there are to learn from.
        side: median of the shorter sides, in pixels.
        channels: of each.
        one_size: whether all have one size, and few enough pixels to be cropped on the device.
        mean: of each channel in [0, 1].
        std: likewise.
    """

    count: int
    side: int
    channels: int
    one_size: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resolve(config: Config) -> Config:
    """`config` with everything chosen: as in the run that its workdir holds, or else from the pictures and the device.

    Prints what is chosen.

    Raises:
        BadInputError: the data cannot be used, or there are too few pictures.
    """
    if not config.data:
        raise BadInputError("data='': give the pictures, such as --data folder:my_pictures.")
    if config.epochs is not None and config.steps is not None:
        raise BadInputError(f"epochs={config.epochs} and steps={config.steps}: give one of them.")
    chosen = _held(config)
    if chosen is None:
        options = {"skip_bad": config.skip_bad, "data_dir": config.data_dir, "channels": 1 if config.grey else 3}
        source = sources.open_source(config.data, config.train_split, **options)
        facts = look_at(source)
        chosen = choose(config, facts, on_cpu=jax.default_backend() == "cpu")._asdict()
        _say(config, source, facts, chosen)
    every = 10
    if config.steps:
        every, chosen["epochs"] = config.steps // 10 or 1, None
    chosen |= {"eval_every": every, "save_every": every}
    return dataclasses.replace(config, **{name: v for name, v in chosen.items() if getattr(config, name) is None})


def _say(config: Config, source: Source, facts: Facts, chosen: dict[str, Any]) -> None:
    kind = f"{facts.count} pictures, {facts.side} pixels a side in the median, of {facts.channels} channels"
    print(f"{source.name}: {kind}, {'all of one size' if facts.one_size else 'cropped on the host'}.")
    names = (name for name, value in chosen.items() if value is not None and getattr(config, name) is None)
    print("Chosen:", *(f"--{name.replace('_', '-')} {_shown(chosen[name])}" for name in names))


def _held(config: Config) -> dict[str, Any] | None:
    """What the run in the workdir has chosen; None if there is none."""
    from etils import epath

    name = results.module_of(config)
    path = epath.Path(config.workdir or f"runs/{name}").expanduser() / "config.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("experiment") != name:
        return None
    kept = {key: value for key, value in found.items() if key in Chosen._fields}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{each:g}" for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def look_at(source: Source) -> Facts:
    """Find out what is to be known of the pictures; reads a sample, and the sizes of all that could be of one size.

    Raises:
        BadInputError: there are too few pictures, or one of the sample cannot be read.
    """
    if len(source) < FEWEST:
        raise BadInputError(f"{source.name} has {len(source)} pictures; give at least {FEWEST}.")
    indices = [int(index) for index in evenly(len(source), SAMPLED)]
    first = source[0]["image"]
    small = loader.load_all(source, transform=pictures.resize_center(SIDE, SIDE), indices=indices, fields=("image",))
    sides = [min(source[index]["image"].shape[:2]) for index in indices[:: max(1, len(indices) // 50)]]
    values = small["image"] / 255
    return Facts(
        count=len(source),
        side=int(np.median(sides)),
        channels=first.shape[-1],
        one_size=_one_size(source, first.shape),
        mean=tuple(np.round(values.mean((0, 1, 2)), 3).tolist()),
        std=tuple(np.round(np.maximum(values.std((0, 1, 2)), 0.01), 3).tolist()),
    )


def _one_size(source: Source, shape: tuple[int, ...]) -> bool:
    if source.arrays is not None:
        return True
    if len(source) * int(np.prod(shape)) > RESIDENT:
        return False
    return all(size == shape[:2] for size in _sizes(source, shape))


def _sizes(source: Source, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """(height, width) of each picture, from the head of its file."""
    from PIL import Image

    for data in source.encoded():
        if len(data) == np.prod(shape):  # pixels
            yield shape[:2]
            continue
        with Image.open(io.BytesIO(data)) as image:
            yield image.size[::-1]


def choose(config: Config, facts: Facts, *, on_cpu: bool) -> Chosen:
    """A value for everything that can be left out; what `config` gives is what the others are chosen for.

    Raises:
        BadInputError: the weights to start from are of an architecture that is not offered.
    """
    recipe, count = RECIPES[config.method], facts.count
    network = _network(config, count, on_cpu)
    size = config.size or _size(facts, on_cpu)
    batch_size = config.batch_size or _batch_size(count, on_cpu)
    negatives = max(1, min(count // 4, 4096 if count < 200_000 else 65_536) // batch_size) * batch_size
    return Chosen(
        backbone=network["backbone"],
        width=network["width"],
        stem=network.get("stem") or ("cifar" if size <= (24 if on_cpu else SMALL) else "imagenet"),
        size=size,
        test_size=_test_size(size, facts.side),
        batch_size=batch_size,
        epochs=None if config.steps else _epochs(count, size, on_cpu),
        learning_rate=round(scaled_lr(recipe.learning_rate, batch_size), 6),
        queue_size=negatives if config.method == "moco" else None,
        momentum=recipe.momentum,
        temperature=recipe.temperature,
        mean=facts.mean,
        std=facts.std,
        one_size=facts.one_size,
    )


def _network(config: Config, count: int, on_cpu: bool) -> dict[str, Any]:
    """Backbone and width, those of the weights to start from if there are any."""
    if config.init:
        found = torchvision.architecture(read_file(config.init, "init")[1])
        kind = (found["stage_sizes"], found["bottleneck"])
        names = [name for name, shape in BACKBONES.items() if shape == kind]
        if not names:
            raise BadInputError(
                f"init={config.init} is a ResNet of stages {kind[0]}; use one of {', '.join(BACKBONES)}."
            )
        return {"backbone": config.backbone or names[0], "width": found["width"], "stem": found["stem"]}
    backbone = config.backbone or ("resnet8" if on_cpu else "resnet18" if count < 200_000 else "resnet50")
    return {"backbone": backbone, "width": 32 if backbone == "resnet8" else 64}


def _size(facts: Facts, on_cpu: bool) -> int:
    """The views' side: at most the pictures', a multiple of 8 where they are larger than 40."""
    most = (48 if facts.side <= 96 else 64) if on_cpu else (128 if facts.count < 50_000 else 224)
    return facts.side if facts.side <= 40 else max(32, min(facts.side, most) // 8 * 8)


def _test_size(size: int, side: int) -> int:
    """The side at evaluation: what random crops show appears larger than in the whole picture (arXiv 1906.06423)."""
    return max(size, min(side, size * 4 // 3 // 8 * 8))


def _batch_size(count: int, on_cpu: bool) -> int:
    """A power of two, so that even the smallest set gives some steps an epoch."""
    most = 128 if on_cpu or count < 20_000 else 256
    return int(min(most, 2 ** int(np.log2(count // 4))))


def _epochs(count: int, size: int, on_cpu: bool) -> int:
    if on_cpu:
        return int(np.clip(SEEN * (32 / size) ** 2 // count, 10, 400))
    return 400 if count < 10_000 else 200 if count < 200_000 else 100
