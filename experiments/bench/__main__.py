"""How fast, side by side: `python -m experiments.bench [NAME ...]`.

Each side runs in a process of its own, pinned to the same cores, warm, a round of one after a round of the other. What
counts is the ratio; times are this machine's. A library to compare with that is not installed is skipped and named.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.bench import (
    bert_step,
    convolutions,
    cpu_kernels,
    fresh,
    harness,
    machine,
    moco_epoch,
    moco_step,
    packed,
    shrinking,
    table,
    text_data,
    views,
)

RESULTS = Path("experiments") / "results"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run and on what."""

    names: tuple[str, ...] = ()
    """Benchmarks to run; empty: all for this device."""
    rounds: int = 5
    """Number of rounds of each side."""
    cores: int = 2
    """Number of host cores for each side."""
    data: str = ""
    """CIFAR-10 as tfds:NAME or arrays:FILE.npz; empty: noise of the same size."""
    epoch_images: int = 2048
    """Number of images in the epoch."""
    text: str = ""
    """Text file; empty: the language reference of this Python."""
    out: str = ""
    """Results file; empty: experiments/results/bench-DEVICE.json."""
    shrink: bool = False
    """Shrink all sides to seconds on a CPU, those for a GPU too: whether they run, not how fast; give --out."""


class Bench(NamedTuple):
    """A line of the table.

    Attributes:
        title: of the measure.
        unit: of the work a second, or of the values.
        bar: what the ratio has to be on a CPU, and on a GPU.
        sides: `(on a GPU, config) -> sides`, ours first.
        ceiling: whether matrix products are measured along with it.
        gpu_only: not for a CPU.
        cpu_only: not for a GPU.
    """

    title: str
    unit: str
    bar: tuple[str, str]
    sides: Callable[[bool, Config], list[harness.Side]]
    ceiling: bool = False
    gpu_only: bool = False
    cpu_only: bool = False


def _bert(size: str, length: int) -> Bench:
    bars = ">= 1.3", ">= 1 compiled" + (", >= 45 % MFU" if (size, length) == ("base", 512) else "")
    title = f"BERT {size} step at {length}"
    return Bench(title, "tokens/s", bars, lambda gpu, config: bert_step.sides(gpu, size, length), ceiling=True)


BENCHES = {
    "moco_step": Bench(
        "MoCo step, CIFAR ResNet-18",
        "images/s",
        (">= 1 eager", ">= 1 compiled"),
        lambda gpu, config: moco_step.cifar(gpu),
        ceiling=True,
    ),
    "moco_epoch": Bench(
        "CIFAR-10 epoch of MoCo with data and views",
        "images/s",
        (">= 1.5", ">= 10"),
        lambda gpu, config: moco_epoch.sides(gpu, config.data, config.epoch_images),
    ),
    "views": Bench("MoCo v2's two views at 224", "images/s", (">= 2", "-"), lambda gpu, config: views.sides(gpu)),
    "views_on_gpu": Bench(
        "MoCo v2's two views of 256 pictures on a GPU",
        "images/s",
        ("-", ">= 50 step"),
        lambda gpu, config: views.on_gpu(gpu),
        gpu_only=True,
    ),
    "packed": Bench("pictures read and cropped on the host", "images/s", ("-", "-"), lambda gpu, c: packed.sides(gpu)),
    "moco_resnet50": Bench(
        "MoCo v2 step, ResNet-50 at 224",
        "images/s",
        ("-", ">= 1 compiled"),
        lambda gpu, config: moco_step.imagenet(gpu),
        ceiling=True,
        gpu_only=True,
    ),
    "convolutions": Bench(
        "MoCo v2 step, ResNet-50 at 224, and its convolutions alone",
        "images/s",
        ("-", ">= 0.8"),
        lambda gpu, config: convolutions.sides(gpu),
        gpu_only=True,
    ),
    "strided": Bench(
        "MoCo step, CIFAR ResNet-18: strided kernels",
        "images/s",
        (">= 1.03", "-"),
        lambda gpu, config: cpu_kernels.strided(),
        cpu_only=True,
    ),
    "small_pictures": Bench(
        "MoCo step, ResNet of three blocks at 48: kernels for small pictures",
        "images/s",
        (">= 1.03", "-"),
        lambda gpu, config: cpu_kernels.small_pictures(),
        cpu_only=True,
    ),
    "bert_mini": _bert("mini", 128),
    "bert_base_128": _bert("base", 128),
    "bert_base_512": _bert("base", 512),
    "text_instances": Bench(
        "whole-word-masked instances", "instances/s", (">= 3", ">= 3"), lambda gpu, c: text_data.instances(gpu, c.text)
    ),
    "text_tokens": Bench("prepared tokens", "tokens/s", (">= 1", ">= 1"), lambda gpu, c: text_data.tokens(gpu, c.text)),
    "start": Bench(
        "the demo's command to its first logged step, warm and cold cache",
        "s",
        (">= 4", ">= 4"),
        lambda gpu, c: fresh.start(gpu),
    ),
    "memory_moco": Bench("peak memory of MoCo's step", "MiB", ("-", ">= 1"), lambda gpu, c: fresh.moco_memory(gpu)),
    "memory_bert": Bench(
        "peak memory of BERT-base's step at 512", "MiB", ("-", ">= 1"), lambda gpu, c: fresh.bert_memory(gpu)
    ),
}


def run(config: Config) -> Path:
    """Run the benchmarks, print and write each one's entry as it ends; returns the results file.

    Raises:
        BadInputError: no such benchmark, or a number is below 1.
    """
    from ssljax.types import BadInputError

    if unknown := sorted(set(config.names) - set(BENCHES)):
        raise BadInputError(f"{', '.join(unknown)}: there is no such benchmark; use one of {', '.join(BENCHES)}.")
    if min(config.rounds, config.cores, config.epoch_images) < 1:
        raise BadInputError(f"rounds={config.rounds}, cores={config.cores}: give at least 1 of each.")
    if config.shrink and not config.out:
        raise BadInputError("shrink=True: give --out FILE too, since such figures do not belong to the recorded ones.")
    harness.pin(config.cores)
    environment = harness.call(machine.facts)
    gpu, peak = environment["platform"] == "gpu", machine.peak(environment["device"])
    out = Path(config.out) if config.out else RESULTS / f"bench-{table.device_name(environment)}.json"
    for name in config.names or tuple(BENCHES):
        bench = BENCHES[name]
        if bench.cpu_only if gpu else bench.gpu_only and not config.shrink:
            print(f"{name}: this one is for a {'CPU' if gpu else 'GPU'} and is skipped.")
            continue
        sides = [*bench.sides(gpu, config), *(machine.ceilings(gpu) if bench.ceiling else ())]
        measured, missing = harness.compare(shrinking.shrink(sides) if config.shrink else sides, config.rounds)
        ceilings = [side for side in measured if side.label in machine.LABELS]
        found = table.entry([side for side in measured if side not in ceilings], ceilings, bench.unit, peak)
        found |= {"title": bench.title, "bar": bench.bar[gpu], "missing": missing, "environment": environment}
        table.put(out, name, found)
        print(table.as_text(name, found), flush=True)
    return out


def main() -> None:
    """Run the command line."""
    import tyro

    from ssljax.cli import experiments as cli
    from ssljax.types import BadInputError

    names = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    given = ["--names", *names, *sys.argv[1 + len(names) :]] if names else None
    config = tyro.cli(Config, prog="python -m experiments.bench", description=__doc__, args=given)
    try:
        print(f"written to {run(config)}")
    except BadInputError as error:
        sys.exit(cli.refuse(error))


if __name__ == "__main__":
    main()
