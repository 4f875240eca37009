"""What only a fresh process shows: the time to the first step, and the greatest memory."""

import os
import tempfile
from typing import Any

from experiments.bench import bert_step, moco_step
from experiments.bench.harness import ALLOCATORS, Ready, Side, call, need

CELL = {"depth": 18, "size": 32, "batch": 64, "steps": 0}  # a round begins with a step that does not count


def start(gpu: bool) -> list[Side]:
    """MoCo's first step with a compilation cache that is warm (ours) and with an empty one."""
    return [
        Side("warm cache", first_step, {"gpu": gpu, "warm": True}),
        Side("cold cache", first_step, {"gpu": gpu, "warm": False}),
    ]


def first_step(gpu: bool, warm: bool) -> Ready:
    """A round is a process from its imports to the end of its first step."""
    kept = tempfile.mkdtemp(prefix="bench-cache-")

    def round():
        folder = kept if warm else tempfile.mkdtemp(prefix="bench-cache-")
        return call(_timed_step, folder, gpu)

    return Ready(round)


def _timed_step(folder: str, gpu: bool) -> float:
    import time

    began = time.perf_counter()
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    moco_step.ours(**{**CELL, "gpu": gpu}).round()
    return time.perf_counter() - began


def moco_memory(gpu: bool) -> list[Side]:
    """Peak memory of MoCo's step: ResNet-50 at 224 and batch 256 on a GPU, else the CIFAR ResNet-18 at batch 64."""
    cell = {"depth": 50, "size": 224, "batch": 256, "steps": 1} if gpu else {**CELL, "steps": 1}
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
        need("lightly")
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
