"""Both libraries' training steps as sides: built once, a round is a number of steps."""

from typing import Any

from experiments.bench.harness import Ready, need

WORKERS = 2


def jax_steps(method: Any, views: Any, optimizer: Any, batch: dict[str, Any], *, steps: int, work: float) -> Ready:
    """A round of `steps` of ssljax's own train step on one batch; `work` is that of one step."""
    import jax

    from ssljax.plan import flops
    from ssljax.train.state import init_state
    from ssljax.train.step import compile_step

    step = compile_step(method, views, optimizer)
    held = [init_state(method, optimizer, views, batch, 0)]
    counted = flops.count(step, held[0], batch).total

    def round():
        metrics = {}
        for _ in range(steps):
            held[0], metrics = step(held[0], batch)
        jax.block_until_ready((held[0], metrics))

    return Ready(round, work=work * steps, flops=counted * steps)


def torch_steps(step: Any, *, steps: int, work: float, gpu: bool) -> Ready:
    """A round of `steps` calls of `step`."""
    torch = need("torch")

    def round():
        for _ in range(steps):
            step()
        if gpu:
            torch.cuda.synchronize()

    return Ready(round, work=work * steps)


def torch_loader(data: Any, **options: Any) -> Any:
    """A DataLoader whose `WORKERS` processes stay from epoch to epoch."""
    torch = need("torch")
    # a side's process was spawned, and would spawn in turn; torch's own default on Linux forks
    processes = {"num_workers": WORKERS, "persistent_workers": True, "multiprocessing_context": "fork"}
    return torch.utils.data.DataLoader(data, **processes, **options)


def compiled(module: Any, gpu: bool) -> Any:
    """torch.compile as it is best on the device."""
    torch = need("torch")
    return torch.compile(module, mode="max-autotune" if gpu else "default")


def autocast(gpu: bool) -> Any:
    """Bfloat16 on a GPU, float32 elsewhere."""
    torch = need("torch")
    return torch.autocast("cuda" if gpu else "cpu", torch.bfloat16, enabled=gpu)
