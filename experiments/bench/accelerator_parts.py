"""What is measured on an accelerator, in this order: commands of this project, each a part that stands alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DATA = ("pictures", "text", "task")
RUN = "--record --bfloat16"
TINY_PICTURES = (
    "--batch-size 16 --width 4 --stage-sizes 1 --epochs 2 --eval-every 2 --save-every 2 --devices 1 --no-compiler-check"
)
TINY_MOCO = f"{TINY_PICTURES} --queue-size 64"
TINY_SIMCLR = f"{TINY_PICTURES} --projector 8 8 --warmup-epochs 1"
TINY_BERT = (
    "--steps 6 --lengths 16 --batch-sizes 8 --max-predictions 3 --layers 1 --hidden 16 --heads 2 --intermediate 16 "
    "--warmup-steps 2 --eval-every 6 --save-every 6 --devices 1 --no-compiler-check --finetune-epochs 1 "
    "--finetune-seeds 1"
)


class Part(NamedTuple):
    """A part of the measurement.

    Attributes:
        name: unique.
        title: for the plan.
        minutes: that it is expected to take on an H200.
        limit: minutes after which it is stopped.
        command: the module and its options; `{pictures}`, `{text}` and `{task}` stand for the data.
        small: options that shrink it for a CPU.
        result: "NAME.json" of a run; or "bench-*.json NAME" of a benchmark.
        bar: what is hoped for.
    """

    name: str
    title: str
    minutes: float
    limit: float
    command: str
    small: str
    result: str
    bar: str = "-"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the data that the command takes."""
        return tuple(name for name in DATA if f"{{{name}}}" in self.command)


def _run(name: str, minutes: float, bar: str, options: str, small: str, title: str) -> Part:
    command = f"experiments.{name.partition(' ')[0]} {options} {RUN}"
    return Part(name, title, minutes, 1.6 * minutes, command, small, f"{name.partition(' ')[0]}.json", bar)


def _pictures(name: str, minutes: float, bar: str, options: str = "", small: str = TINY_MOCO) -> Part:
    title = f"python -m experiments.{name.partition(' ')[0]}, {options or 'asymmetric'}, 200 epochs"
    return _run(name, minutes, bar, f"--data {{pictures}} {options}".strip(), small, title)


def _bench(name: str, minutes: float, bar: str, title: str) -> Part:
    command = f"experiments.bench {name} --rounds 5"
    return Part(name, title, minutes, 2 * minutes, command, "--shrink --rounds 1", f"bench-*.json {name}", bar)


PARTS = (
    Part(
        "checks",
        "losses and steps against the CPU, matrix products, copy",
        0.7,
        2.0,
        "experiments.bench.device_checks",
        "--shrink",
        "checks-*.json",
        "within the tolerances",
    ),
    _pictures("moco_cifar10", 6, "kNN 82.6, an epoch in 1.2 s"),
    _pictures("moco_cifar10 symmetric", 8.1, "kNN 85.3", "--symmetric"),
    _run(
        "bert_wiki_small",
        8,
        "masked words 45.5, SST-2 85.5",
        "--data {text} --finetune SST-2:{task} --finetune-seeds 3 --workers 1",
        TINY_BERT,
        "python -m experiments.bert_wiki_small in full, SST-2",
    ),
    _bench("moco_step", 1.5, ">= 1 compiled", "MoCo step, ResNet-18, 32 x 32, batch 512"),
    _bench("moco_resnet50", 3, ">= 1 compiled", "MoCo v2 step, ResNet-50, 224, batch 256"),
    _bench("convolutions", 1.5, ">= 0.8", "the same step beside its convolutions alone"),
    _bench("bert_base_128", 2, ">= 1 compiled", "BERT-base step at 128, batch 256"),
    _bench("bert_base_512", 2, ">= 1 compiled, >= 45 % MFU", "BERT-base step at 512, batch 64"),
    _bench("views_on_gpu", 1, "a step takes 50 times as long", "MoCo v2's views of 256 pictures at 224"),
    _pictures("simclr_cifar10", 6, "-", "--epochs 200", TINY_SIMCLR),
)


def held(part: Part, folder: Path) -> bool:
    """Whether a folder of results has a figure of this part that was not measured on a CPU."""
    pattern, _, entry = part.result.partition(" ")
    for path in folder.glob(pattern):
        found = json.loads(path.read_text())
        if isinstance(found, list):
            return any(_is_run(record, part) for record in found)
        found = found.get(entry, {}) if entry else found
        if found and "CPU" not in found["environment"]["device"]:
            return True
    return False


def _is_run(record: Mapping[str, Any], part: Part) -> bool:
    """Whether a run was this one, on an accelerator."""
    options, words = record["options"], part.command.split()
    epochs = int(words[words.index("--epochs") + 1]) if "--epochs" in words else None
    same = bool(options.get("symmetric")) == ("--symmetric" in words) and options.get("epochs") == epochs
    whole = same and "steps" not in options and bool(options.get("bfloat16"))
    return whole and "CPU" not in record["environment"]["device"]
