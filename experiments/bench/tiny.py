"""Tiny runs of three experiments through their command lines, and what two of them must have in common at the end."""

import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments import bert_demo, moco_cifar10, simclr_cifar10
from experiments.bench import children
from experiments.bench.children import Child, Page
from ssljax.cli import experiments as cli
from ssljax.text import prepare, python_topics, vocabulary
from ssljax.train.logging import read_metrics
from ssljax.train.saving import manifest, retention

PICTURES, BATCH = 48, 16
STEPS, INTERVAL = 60, PICTURES // BATCH  # of each run, and between its saves
PICTURE_OPTIONS = (
    f"--batch-size {BATCH} --width 4 --epochs {STEPS // INTERVAL} --save-every 1 --eval-every 5 --log-every 1"
)
COMMON = ("--devices", "1", "--no-compiler-check")
MOCO_OPTIONS = f"{PICTURE_OPTIONS} --queue-size 64 --embedding-dim 8 --stage-sizes 1"
SIMCLR_OPTIONS = f"{PICTURE_OPTIONS} --projector 8 8 --warmup-epochs 1"
BERT_OPTIONS = (
    f"--steps 36 {STEPS - 36} --lengths 16 24 --batch-sizes 8 4 --max-predictions 3 4 --hidden 16 --dropout 0.1 "
    # a line in several saves: the figures of a step that is saved must not be lost on the way to the file
    f"--save-every {INTERVAL} --eval-every 15 --log-every {2 * INTERVAL}"
)
LIBRARIES = (
    "grain",
    "matplotlib.pyplot",
    "orbax.checkpoint",
    "safetensors.numpy",
    "sklearn.linear_model",
    "sklearn.manifold",
    "tensorboardX",
)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A run of `STEPS` steps with a save every `INTERVAL`: an experiment's module and options of its command line."""

    module: ModuleType
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """The experiment's."""
        return self.module.__name__.rpartition(".")[2]


def load_libraries() -> None:
    """Once, in the parent, instead of in every child."""
    for name in LIBRARIES:
        importlib.import_module(name)


def make(folder: Path) -> dict[str, Tiny]:
    """The three runs by name, with their data in `folder`, which must exist."""
    children.call(lambda: make_text(folder / "topics.txt", folder / "text"), folder)
    pictures = make_pictures(folder / "pictures.npz")
    runs = (
        moco(pictures),
        Tiny(simclr_cifar10, (*SIMCLR_OPTIONS.split(), "--data", pictures)),
        Tiny(bert_demo, (*BERT_OPTIONS.split(), "--data", str(folder / "text"))),
    )
    return {run.name: run for run in runs}


def moco(pictures: str) -> Tiny:
    """The run of moco_cifar10."""
    return Tiny(moco_cifar10, (*MOCO_OPTIONS.split(), "--data", pictures))


def make_pictures(path: Path) -> str:
    """Write a set of two kinds of pictures that differ in brightness; returns the value of `--data`."""
    rng, content = np.random.default_rng(0), {}
    for split, count in (("train", PICTURES), ("test", 20)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 120, (count, 32, 32, 3)) + 120 * labels[:, None, None, None]
        content |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    np.savez(path, **content)
    return f"arrays:{path}"


def make_text(source: Path, out: Path) -> None:
    """Forty documents of Python's reference, prepared."""
    text = python_topics.as_text(python_topics.python_topics()[-40:])
    source.write_text(text)
    prepare.prepare([str(source)], vocabulary.train_vocabulary(iter(text.splitlines()), 400), str(out))


def cache(folder: Path, write: bool) -> None:
    """Read compiled programs from `folder`, which exists, and with `write` add new ones to it."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # entries are not written atomically: a killed child must not write one
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if write else 1e9)


def start(run: Tiny, workdir: Path, page: Page, prepare: Callable[[], None], more: tuple[str, ...] = ()) -> Child:
    """The experiment's command in a child; the same call resumes the run."""
    options = [*run.options, "--workdir", str(workdir), *COMMON, *more]

    def command() -> None:
        page.follow()
        prepare()
        sys.argv = [run.name, *options]
        cli.main(run.module.Config, run.module.build, run.module.__doc__)

    page.write(-1, 0)
    return children.fork(command, workdir.with_suffix(".log"))


def complete(run: Tiny, workdir: Path, prepare: Callable[[], None], more: tuple[str, ...] = ()) -> float:
    """Let a run come to its end; returns the seconds.

    Raises:
        RuntimeError: it does not; with what it has said.
    """
    began = time.monotonic()
    with children.running(start(run, workdir, Page(), prepare, more)) as child:
        if child.wait(1800) != 0:
            raise RuntimeError(f"{run.name} has ended with {child.code}:\n{child.said()}")
    return time.monotonic() - began


def ending(workdir: Path) -> dict[str, Any]:
    """All that two runs must agree on: the last checkpoint's leaves, every loss and the results.

    The leaves' hashes are of parameters, optimiser, momentum encoder, statistics, queue, key, step and data position.
    """
    last = newest(workdir)
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if "loss" in row]
    results = workdir / "results.json"
    return {
        "the last step": last,
        "a leaf": manifest.read(epath.Path(workdir / "checkpoints" / str(last)))["leaves"],
        "the loss of step": {row["step"]: row["loss"].hex() for row in rows},
        "the result": json.loads(results.read_text()) if results.exists() else None,
    }


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first thing that differs between two endings; "" if none does."""
    for what, value in wanted.items():
        if isinstance(value, dict) and isinstance(found[what], dict):
            for name in value.keys() | found[what].keys():
                if value.get(name) != found[what].get(name):
                    return f"{what} {name}: {found[what].get(name)}, not {value.get(name)}"
        elif found[what] != value:
            return f"{what}: {found[what]}, not {value}"
    return ""


def newest(workdir: Path) -> int:
    """The newest step with a manifest; -1 without one."""
    return max(retention.committed_steps(epath.Path(workdir / "checkpoints")), default=-1)


def being_saved(workdir: Path) -> set[str]:
    """The directories of saves that are not committed."""
    folder = workdir / "checkpoints"
    return {path.name for path in folder.iterdir() if not path.name.isdecimal()} if folder.exists() else set()
