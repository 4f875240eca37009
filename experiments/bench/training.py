"""Both libraries' training steps as sides: built once, a round is one step that does not count and a number that do.

A run is never idle between its steps, and a step after a pause finds its memory gone cold.
"""

import time
from collections.abc import Callable
from typing import Any

from experiments.bench.harness import Ready, need

WORKERS = 2
PEAK = "peak_mib"  # of the device's memory, in MiB


def jax_steps(method: Any, views: Any, optimizer: Any, batch: dict[str, Any], *, steps: int, work: float) -> Ready:
    """A round of `steps` of ssljax's own train step on one batch; `work` is that of one step."""
    import jax

    from ssljax.plan import flops
    from ssljax.train.state import init_state
    from ssljax.train.step import compile_step

    step = compile_step(method, views, optimizer)
    held = [init_state(method, optimizer, views, batch, 0)]
    counted, facts = flops.count(step, held[0], batch).total, {}

    def some(count):
        metrics = {}
        for _ in range(count):
            held[0], metrics = step(held[0], batch)
        jax.block_until_ready((held[0], metrics))

    if stats := jax.local_devices()[0].memory_stats():
        some(1)
        stats = jax.local_devices()[0].memory_stats() or stats
        facts = {PEAK: round(stats["peak_bytes_in_use"] / 2**20)}
    return Ready(_after_one(some, steps), work=work * steps, flops=counted * steps, facts=facts)


def torch_steps(step: Any, *, steps: int, work: float, gpu: bool) -> Ready:
    """A round of `steps` calls of `step`."""
    torch = need("torch")

    def some(count):
        for _ in range(count):
            step()
        if gpu:
            torch.cuda.synchronize()

    facts = {}
    if gpu:
        some(1)
        facts = {PEAK: round(torch.cuda.max_memory_allocated() / 2**20)}
    return Ready(_after_one(some, steps), work=work * steps, facts=facts)


def _after_one(some: Callable[[int], None], steps: int) -> Callable[[], float]:
    def round():
        some(1)
        began = time.perf_counter()
        some(steps)
        return time.perf_counter() - began

    return round


def torch_loader(data: Any, **options: Any) -> Any:
    """A DataLoader whose `WORKERS` processes persist from epoch to epoch."""
    torch = need("torch")
    # a side's process was spawned, and would spawn again; torch's own default on Linux forks
    processes = {"num_workers": WORKERS, "persistent_workers": True, "multiprocessing_context": "fork"}
    return torch.utils.data.DataLoader(data, **processes, **options)


def compiled(module: Any) -> Any:
    """torch.compile in its default mode; "max-autotune" takes minutes a model on a GPU."""
    return need("torch").compile(module)


def autocast(gpu: bool) -> Any:
    """Bfloat16 on a GPU, float32 elsewhere; convolutions by the fastest of cuDNN's kernels."""
    torch = need("torch")
    torch.backends.cudnn.benchmark = gpu
    return torch.autocast("cuda" if gpu else "cpu", torch.bfloat16, enabled=gpu)
