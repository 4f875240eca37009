"""What this machine can do at most: large matrix products, by either library."""

import re
import time
from typing import Any

from experiments.bench.harness import Ready, Side, need

SECONDS = 0.25  # a round
PEERS = ("torch", "torchvision", "lightly", "transformers")
LABELS = ("matmul (jax)", "matmul (torch)")
# bfloat16 operations a second without sparsity, by the vendors' data sheets; the SXM parts
PEAKS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}


def facts() -> dict[str, Any]:
    """Platform, allocator, date, commit, device and versions; touches the devices."""
    import importlib.metadata
    import importlib.util
    import os

    import jax

    from ssljax.run import results as records

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = records.environment()
    found["versions"] |= {name: importlib.metadata.version(name) for name in PEERS if importlib.util.find_spec(name)}
    allocator = os.environ.get("LD_PRELOAD") or os.environ.get("GLIBC_TUNABLES", "")
    return {"platform": jax.default_backend(), "cores": cores, "allocator": allocator, **found}


def peak(device: str) -> float:
    """The data sheet's operations a second of a device such as "1 x NVIDIA H100 80GB HBM3"; 0 if it is not known.

    >>> peak("1 x NVIDIA H200"), peak("1 x x86_64 CPU")
    (989000000000000.0, 0.0)
    """
    return next((flops for name, flops in PEAKS.items() if name in re.split(r"[ -]", device)), 0.0)


def ceilings(gpu: bool) -> list[Side]:
    """Sides whose rounds are nothing but matrix products, in the measure's type."""
    return [Side(LABELS[0], jax_matmul, {"gpu": gpu}), Side(LABELS[1], torch_matmul, {"gpu": gpu})]


def jax_matmul(gpu: bool) -> Ready:
    """`a @ a` by XLA."""
    import jax
    import jax.numpy as jnp

    size = 8192 if gpu else 2048
    matrix = jnp.full((size, size), 1 / size, jnp.bfloat16 if gpu else jnp.float32)
    product = jax.jit(lambda a: a @ a)

    def times(count):
        out = matrix
        for _ in range(count):
            out = product(out)
        out.block_until_ready()

    return _of_length(times, size)


def torch_matmul(gpu: bool) -> Ready:
    """`a @ a` by torch."""
    torch = need("torch")
    size = 8192 if gpu else 2048
    place = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
    matrix = torch.full((size, size), 1 / size, **place)

    def times(count):
        out = matrix
        for _ in range(count):
            out = out @ matrix
        if gpu:
            torch.cuda.synchronize()

    return _of_length(times, size)


def _of_length(times, size: int) -> Ready:
    """The number of products that takes about `SECONDS`."""
    times(2)
    began = time.perf_counter()
    times(4)
    count = max(1, round(4 * SECONDS / (time.perf_counter() - began)))
    return Ready(lambda: times(count), work=count, flops=2.0 * size**3 * count)
