"""MoCo's step with all CPU kernels of `ssljax.models.cpu`, and with XLA's own convolutions in the place of some."""

from typing import Any

from experiments.bench import moco_step
from experiments.bench.harness import Ready, Side
from experiments.bench.training import jax_steps


def strided() -> list[Side]:
    """The CIFAR step twice, ours first."""
    ours, *_ = moco_step.cifar(gpu=False)
    return [ours, Side("XLA's strided convolutions", cifar, {**ours.options, "without": ["strided"]})]


def small_pictures() -> list[Side]:
    """The step that `ssljax pretrain` takes on a CPU on pictures of 64 x 64, twice, ours first."""
    options = {"size": 48, "batch": 128, "width": 32, "steps": 4}
    return [
        Side("ssljax", small, options),
        Side("XLA's convolutions of small pictures", small, {**options, "without": ["patches", "first"]}),
    ]


def cifar(without: list[str], **options: Any) -> Ready:
    """The step on CIFAR-10's pictures."""
    _leave_out(without)
    return moco_step.ours(**options)


def small(size: int, batch: int, width: int, steps: int, without: tuple[str, ...] = ()) -> Ready:
    """The step with a ResNet of three blocks and the large stem."""
    import jax.numpy as jnp

    from ssljax import optim
    from ssljax.methods.moco import moco
    from ssljax.models import heads, resnet

    _leave_out(without)
    backbone, projector = resnet.resnet((1, 1, 1), width=width, groups=4), heads.mlp((4 * width, 128))
    method = moco(backbone, projector, queue_size=4096, momentum=0.99, temperature=0.2)
    first, second = map(jnp.asarray, moco_step.images(batch, size))
    views: dict[str, Any] = {"view_1": first, "view_2": second}
    return jax_steps(method, lambda key, **batch: batch, optim.sgd(0.06, 0.9, 1e-4), views, steps=steps, work=batch)


def _leave_out(names: list[str] | tuple[str, ...]) -> None:
    """Let XLA do what the modules of these names would; this process has no other use."""
    from ssljax.models.cpu import convolution

    choose = convolution.choose

    def chosen(*arguments: Any) -> Any:
        module = choose(*arguments)
        return None if module and module.__name__.rpartition(".")[2] in names else module

    convolution.choose = chosen
