"""What only a fresh process shows: the time to the first step, and the greatest memory."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench import bert_step, moco_step
from experiments.bench.harness import ALLOCATORS, ORDERED, Ready, Side, call, need

CELL = {"depth": 18, "size": 32, "batch": 64, "steps": 1}
PAUSE = 0.005  # seconds between looks at metrics.jsonl
EVENTS = {  # jax's durations, by the end of their names
    "jaxpr_trace_duration": "tracing",
    "jaxpr_to_mlir_module_duration": "lowering",
    "backend_compile_duration": "loading",
}


def start(gpu: bool) -> list[Side]:
    """The demo's command up to its first logged step with a warm compilation cache (ours) and with an empty one.

    With the empty one it also makes the compiler check, which is remembered beside the cache.
    """
    return [Side("warm cache", first_row, {"warm": True}), Side("cold cache", first_row, {"warm": False})]


def first_row(warm: bool) -> Ready:
    """A round is the command from its start to the first row of metrics.jsonl, which the second step follows.

    The facts of the warm side are the seconds of the parts, as `_parts` finds them in a start of its own.
    """
    # as users run it: allocator and scheduler are set for long steps
    for name in ALLOCATORS:
        os.environ.pop(name, None)
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").replace(ORDERED, "")
    if not warm:
        return Ready(lambda: _seconds(tempfile.mkdtemp(prefix="bench-cache-")))
    kept = tempfile.mkdtemp(prefix="bench-cache-")
    _seconds(kept)
    return Ready(lambda: _seconds(kept), facts={"seconds": call(_parts, kept)})


def _seconds(cache: str) -> float:
    """From the start of the command to its first row.

    Raises:
        RuntimeError: it has ended before; with what it has printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-run-"))
    options = ["--workdir", str(folder / "run"), "--compile-cache", cache, "--log-every", "1"]
    rows, said = folder / "run" / "metrics.jsonl", folder / "said"
    with said.open("w") as file:
        began = time.perf_counter()
        command = [sys.executable, "-m", "experiments.demo", *options]
        with subprocess.Popen(command, stdout=file, stderr=file) as process:
            try:
                while not (rows.exists() and rows.stat().st_size):
                    if process.poll() is not None:
                        raise RuntimeError(f"the demo has ended with {process.returncode}:\n{said.read_text()[-3000:]}")
                    time.sleep(PAUSE)
                spent = time.perf_counter() - began
            finally:
                process.kill()
    shutil.rmtree(folder)
    return spent


class _LoggedError(Exception):
    """The first row is there."""


def _parts(cache: str) -> dict[str, float]:
    """The same start within this process, without that of Python, and where its seconds go."""
    began = time.perf_counter()
    from jax import monitoring

    from experiments import demo
    from ssljax.run import experiment
    from ssljax.train.logging import RunLog

    seconds, compiled = {"imports": time.perf_counter() - began}, began

    def note(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal compiled
        part = EVENTS.get(event.rpartition("/")[2])
        if part:
            seconds[part] = seconds.get(part, 0.0) + duration_secs
            compiled = time.perf_counter()

    def write(*_: Any) -> None:
        now = time.perf_counter()
        if "rest" not in seconds:  # the loop's end logs what is left
            seconds["first step"] = now - compiled
            seconds["rest"] = now - began - sum(seconds.values())
        raise _LoggedError

    def opened() -> Any:
        before = time.perf_counter()
        task = built.task()
        seconds["data"] = time.perf_counter() - before
        return task

    monitoring.register_event_duration_secs_listener(note)
    RunLog.write = write  # type: ignore[method-assign]
    config = demo.Config(workdir=tempfile.mkdtemp(prefix="bench-run-"), compile_cache=cache, log_every=1)
    built = demo.build(config)
    with contextlib.suppress(_LoggedError):
        experiment.run(config, dataclasses.replace(built, task=opened))
    return {part: round(spent, 2) for part, spent in seconds.items()}


def moco_memory(gpu: bool) -> list[Side]:
    """Peak memory of MoCo's step: ResNet-50 at 224 and batch 256 on a GPU, else the CIFAR ResNet-18 at batch 64."""
    cell = {"depth": 50, "size": 224, "batch": 256, "steps": 1} if gpu else CELL
    options = {"gpu": gpu, "cell": cell}
    return [
        Side("ssljax", peak, {**options, "start": moco_step.ours}),
        Side("PyTorch eager", peak, {**options, "start": moco_step.peer}),
    ]


def bert_memory(gpu: bool) -> list[Side]:
    """Peak memory of BERT-base's step at length 512: batch 64 on a GPU, else 1."""
    cell = {"length": 512, "batch": 64 if gpu else 1, "steps": 1}
    mine, theirs = {**cell, "size": "base"}, {**cell, "shape": bert_step.their_shape("base")}
    return [
        Side("ssljax", peak, {"gpu": gpu, "cell": mine, "start": bert_step.ours}),
        Side("transformers eager", peak, {"gpu": gpu, "cell": theirs, "start": bert_step.peer}),
    ]


def peak(gpu: bool, cell: dict[str, Any], start: Any) -> Ready:
    """A round is a process that takes two steps and reports its peak memory, in MiB.

    It has the system's own allocator: an allocator set to keep all memory would report more than the step needs.
    """
    start_library(start)
    for name in ALLOCATORS:
        os.environ.pop(name, None)
    return Ready(lambda: call(_peak, gpu, cell, start), facts={"allocator": "the system's"})


def start_library(start: Any) -> None:
    """Refuse now, in one sentence, a peer that is not installed."""
    if start is moco_step.peer:
        need("torchvision")
    elif start is bert_step.peer:
        need("transformers")


def _peak(gpu: bool, cell: dict[str, Any], start: Any) -> float:
    import resource
    import sys

    start(**cell, gpu=gpu).round()
    if not gpu:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if start in (moco_step.ours, bert_step.ours):
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    import torch

    return torch.cuda.max_memory_allocated() / 2**20
