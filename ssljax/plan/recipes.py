"""Recipes by name, and the shapes of their batches without opening the data."""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax.optim import Optimizer, Pace
from ssljax.run.experiment import Experiment
from ssljax.text.task import TextConfig, batch_shapes, read_phases
from ssljax.types import BadInputError, Batch, Method
from ssljax.vision.config import PictureConfig

# training pictures, and their shape where all have one
KNOWN_SETS = {
    "tfds:imagenet2012": (1_281_167, None),
    "tfds:cifar10": (50_000, (32, 32, 3)),
    "tfds:cifar100": (50_000, (32, 32, 3)),
    "embedded:fashion_mnist": (12_000, (28, 28, 1)),
}


class Stretch(NamedTuple):
    """A part of a run with batches of one shape.

    Attributes:
        label: what distinguishes it from the others.
        steps: updates.
        batch: names -> `jax.ShapeDtypeStruct`s [B, ...].
    """

    label: str
    steps: int
    batch: Batch

    @property
    def batch_size(self) -> int:
        """B, global."""
        return next(iter(self.batch.values())).shape[0]


class Recipe(NamedTuple):
    """A recipe on paper.

    Attributes:
        config: its options.
        experiment: what they build.
        pace: its length.
        stretches: in order.
    """

    config: Any
    experiment: Experiment
    pace: Pace
    stretches: tuple[Stretch, ...]

    @property
    def method(self) -> Method:
        """The method at that length."""
        return self.experiment.method(self.pace)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer at that length."""
        return self.experiment.optimizer(self.pace)


def read(name: str, options: Sequence[str] = (), overrides: dict[str, Any] | None = None, examples: int = 0) -> Recipe:
    """The recipe of `experiments/NAME.py` below the present directory; its data is not opened.

    Args:
        name: name of the module.
        options: as on its command line, such as ("--batch-size", "1024").
        overrides: fields of its config -> values, over the options.
        examples: pictures in a pass; 0: those of the sets that are known.

    Raises:
        BadInputError: no such recipe, options that do not fit together, or data that is not known.
    """
    import tyro

    module = load(name)
    config = tyro.cli(module.Config, args=list(options), prog=f"ssljax plan {name} ... --")
    held = {key: tuple(value) if isinstance(value, list) else value for key, value in (overrides or {}).items()}
    config = dataclasses.replace(config, **held)
    experiment = module.build(config)
    if isinstance(config, TextConfig):
        phases = read_phases(config)
        stretches = tuple(Stretch(f"length {p.length}", p.steps, batch_shapes(p)) for p in phases)
        return Recipe(config, experiment, Pace(experiment.steps or 0, 1), stretches)
    if not isinstance(config, PictureConfig):
        raise BadInputError(f"{name}: a plan can be made for recipes on pictures or text only; use one of those.")
    count, batch = _pictures(config, experiment, examples)
    pace = experiment.pace(count)
    label = " and ".join(f"size {size}" for size in dict.fromkeys(_sides(batch)))
    return Recipe(config, experiment, pace, (Stretch(label, pace.steps, batch),))


def load(name: str) -> Any:
    """The module of a recipe, from the folder `experiments` of the present directory or of the Python path.

    Raises:
        BadInputError: there is no recipe of that name.
    """
    if name.isidentifier():
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            module = importlib.import_module(f"experiments.{name}")
        except ModuleNotFoundError as error:
            if error.name not in ("experiments", f"experiments.{name}"):
                raise
        else:
            if hasattr(module, "Config") and hasattr(module, "build"):
                return module
    names = ", ".join(_names())
    if not names:
        raise BadInputError(
            f"unknown recipe experiments/{name}.py; recipes are in a clone of the repository, not in the package: run "
            "this in the directory with the folder experiments."
        )
    raise BadInputError(f"unknown recipe experiments/{name}.py; use one of {names}.")


def _names() -> list[str]:
    paths = sorted(Path("experiments").glob("[!_]*.py"))
    return [path.stem for path in paths if "\ndef build(" in path.read_text()]


def _pictures(config: Any, experiment: Experiment, examples: int) -> tuple[int, Batch]:
    """Pictures in a pass, and a batch of them as the loader yields it."""
    count, shape = KNOWN_SETS.get(config.data, (0, None))
    if not (examples or count):
        raise BadInputError(f"data={config.data!r}: its number of pictures is not known; give --examples.")
    if experiment.views.on_host:
        return examples or count, experiment.views.batch_shapes(experiment.batch_size)
    if shape is None:
        known = ", ".join(name for name, (_, shape) in KNOWN_SETS.items() if shape)
        raise BadInputError(f"data={config.data!r}: the pictures' size is not known; plan with --data one of {known}.")
    return examples or count, {"image": jax.ShapeDtypeStruct((experiment.batch_size, *shape), np.uint8)}


def _sides(batch: Batch) -> list[int]:
    """Widths of a batch's pictures, in pixels."""
    return [leaf.shape[-2] for leaf in batch.values()]
