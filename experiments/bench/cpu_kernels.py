"""MoCo's CIFAR step with all CPU kernels of `ssljax.models.cpu`, and with XLA's own strided convolutions."""

from experiments.bench import moco_step
from experiments.bench.harness import Ready, Side


def without_strided(**options) -> Ready:
    """The step whose strided convolutions are XLA's; this process has no other use."""
    from ssljax.models.cpu import convolution, strided

    for kind, module in list(convolution.MODULES.items()):
        if module is strided:
            del convolution.MODULES[kind]
    return moco_step.ours(**options)


def sides() -> list[Side]:
    """The same step twice, ours first."""
    ours, *_ = moco_step.cifar(gpu=False)
    return [ours, Side("XLA's strided convolutions", without_strided, ours.options)]
