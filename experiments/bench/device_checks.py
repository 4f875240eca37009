"""Whether this device computes what the CPU does: `python -m experiments.bench.device_checks`.

Losses and training steps run on both with the same inputs, in float32 as such; bfloat16 is held to float64 by the check
of the compiler that every run makes. Matrix products and a copy of memory give the ceilings.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssljax.run.results import RESULTS

STEP = 5e-3  # of the update's norm: float32 sums in another order, and some ReLUs flip
LOSS = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the figures go."""

    out: str = ""
    """Results file; empty: experiments/results/checks-DEVICE.json."""
    shrink: bool = False
    """Check small models, as a CPU does in seconds; give --out."""


def losses() -> dict[str, tuple[Callable, tuple]]:
    """Each loss with its gradient, on random rows."""
    import jax
    import numpy as np

    from ssljax.losses import contrastive, masked

    rng = np.random.default_rng(0)
    a, b, queue = (rng.standard_normal(shape).astype(np.float32) for shape in ((256, 128), (256, 128), (4096, 128)))
    logits, targets = rng.standard_normal((64, 20, 999)).astype(np.float32), rng.integers(0, 999, (64, 20))
    weights = np.ones((64, 20), np.float32)

    def info_nce(a, b, queue):
        return contrastive.info_nce(*map(contrastive.l2_normalize, (a, b, queue)), temperature=0.1)

    def in_batch(a, b):
        return contrastive.in_batch_info_nce(*map(contrastive.l2_normalize, (a, b)), temperature=0.2)

    def both(loss: Callable) -> Callable:
        return jax.value_and_grad(loss)

    return {
        "InfoNCE with a queue": (both(info_nce), (a, b, queue)),
        "in-batch InfoNCE": (both(in_batch), (a, b)),
        "NT-Xent": (both(lambda a, b: contrastive.nt_xent(a, b, temperature=0.5)), (a, b)),
        "masked words": (both(lambda *batch: masked.masked_cross_entropy(*batch)[0]), (logits, targets, weights)),
    }


def steps(shrink: bool) -> dict[str, Callable[[Any], Any]]:
    """What a training step changes, `device -> pytree`: pictures with their views, and text."""
    import jax.numpy as jnp

    from experiments.bench import bert_step, moco_step, views
    from ssljax.vision.views import cifar

    rows, depth, size, words = (8, 4, "tiny", 200) if shrink else (32, 18, "mini", bert_step.WORDS)
    pictures = {"image": jnp.asarray(views.pictures(rows, 32))}
    text = {name: jnp.asarray(values) for name, values in bert_step.masked_batch(rows, rows, words).items()}
    return {
        f"MoCo step, ResNet-{depth}": _step(moco_step.our_method(depth, False), cifar(), pictures),
        f"BERT step, {size}": _step(bert_step.our_method(size, False, words), _as_they_are, text),
    }


def _as_they_are(key: Any, **batch: Any) -> dict[str, Any]:
    return batch


def _step(learner: tuple[Any, Any], views: Any, batch: dict[str, Any]) -> Callable[[Any], Any]:
    import jax

    from ssljax.train.state import init_state
    from ssljax.train.step import compile_step

    method, optimizer = learner
    step = compile_step(method, views, optimizer)

    def run(device: Any) -> Any:
        before, given = jax.device_put((init_state(method, optimizer, views, batch, 0), batch), device)
        params = jax.device_get(before.params)
        after, metrics = step(before, given)
        # the parameters themselves would hide a wrong update
        update = jax.tree.map(lambda new, old: new - old, jax.device_get(after.params), params)
        return {"update": _flat(update), "loss": jax.device_get(metrics["loss"])}

    return run


def _flat(tree: Any) -> Any:
    """All leaves in one vector: a bias whose gradient is rounding alone is no fault."""
    import jax
    import numpy as np

    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def compare(found: Any, wanted: Any) -> float:
    """The greatest relative difference of a leaf, by norms; infinite where one is not finite."""
    import jax
    import numpy as np

    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
        worst = max(worst, error if np.isfinite(a).all() else float("inf"))
    return worst


def checks(device: Any, reference: Any, shrink: bool) -> list[dict[str, Any]]:
    """Every loss and step on both devices."""
    import jax

    rows = []

    def note(name: str, error: float, tolerance: float) -> None:
        rows.append({"name": name, "error": float(f"{error:.2g}"), "tolerance": tolerance, "passed": error < tolerance})
        print(f"{name}: {error:.2g} (tolerance {tolerance:g})", flush=True)

    with jax.default_matmul_precision("highest"):
        for name, (function, inputs) in losses().items():
            found, wanted = (jax.jit(function)(*jax.device_put(inputs, each)) for each in (device, reference))
            note(name, compare(found, wanted), LOSS)
        for name, run in steps(shrink).items():
            note(name, compare(run(device), run(reference)), STEP)
    return rows


def ceilings(gpu: bool) -> dict[str, float]:
    """Matrix products in 10^12 operations a second, and a copy in 10^9 bytes a second, read and written."""
    import jax
    import jax.numpy as jnp

    from experiments.bench import machine

    products, size = machine.jax_matmul(gpu), 2**30 if gpu else 2**26
    held, copy = jnp.ones(size, jnp.uint8), jax.jit(lambda x: x + jnp.uint8(1))

    def copies() -> None:
        copy(held).block_until_ready()

    copies()
    speeds = products.flops / _least(products.round), 2 * size / _least(copies)
    return {"matmul_teraflops": round(speeds[0] / 1e12, 2), "copy_gigabytes_per_second": round(speeds[1] / 1e9, 1)}


def _least(work: Callable[[], Any], repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def as_markdown(paths: Sequence[Path]) -> str:
    """A row a device: its ceilings, and the greatest share of a tolerance that a check has used."""
    heads = "device", "bfloat16 matrix products", "copy, read and written", "checks against the CPU", "date, commit"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for found in [json.loads(path.read_text()) for path in paths]:
        where, rows = found["environment"], found["checks"]
        failed = [row["name"] for row in rows if not row["passed"]]
        worst = max(rows, key=lambda row: row["error"] / row["tolerance"])
        said = (
            f"{len(rows)} passed; nearest to its tolerance: {worst['name']}, {worst['error']} of {worst['tolerance']}"
        )
        said = f"failed: {', '.join(failed)}" if failed else said
        speeds = f"{found['matmul_teraflops']} TFLOP/s | {found['copy_gigabytes_per_second']} GB/s"
        lines.append(f"| {where['device']} | {speeds} | {said} | {where['date']}, {where['commit']} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run."


def run(config: Config) -> bool:
    """Compare, measure, write; returns whether all checks have passed."""
    import jax

    from experiments.bench import machine, table
    from ssljax.run import results as records

    environment, device = machine.facts(), jax.devices()[0]
    rows = checks(device, jax.devices("cpu")[0], config.shrink)
    found = {"environment": environment, **ceilings(device.platform == "gpu"), "checks": rows}
    out = Path(config.out) if config.out else RESULTS / f"checks-{table.device_name(environment)}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    records.write(out, json.dumps(found, indent=1) + "\n")
    print(f"{found['matmul_teraflops']} TFLOP/s, {found['copy_gigabytes_per_second']} GB/s; written to {out}")
    return all(row["passed"] for row in rows)


def main() -> None:
    """Run the command line; exits with 1 if a check fails."""
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.bench.device_checks", description=__doc__)
    sys.exit(0 if run(config) else 1)


if __name__ == "__main__":
    main()
