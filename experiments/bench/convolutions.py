"""A ResNet-50's convolutions alone, each by the fastest of cuDNN's kernels, beside MoCo's whole step."""

import time
from collections import Counter
from typing import Any, NamedTuple

from experiments.bench import moco_step
from experiments.bench.harness import Ready, Side, need

BATCH, SIZE = 256, 224


class Convolution(NamedTuple):
    """A convolution without bias: shapes of its input [C, h, w] and its kernel [D, C, k, k]."""

    input: tuple[int, int, int]
    kernel: tuple[int, int, int, int]
    stride: int
    padding: int


def sides(gpu: bool) -> list[Side]:
    """MoCo v2's step, and the convolutions that it needs: the query's with both gradients, the key's forward."""
    step = {"depth": 50, "size": SIZE, "batch": BATCH, "steps": 5, "gpu": gpu}
    alone = {"depth": 50, "size": SIZE, "batch": BATCH, "gpu": gpu}
    return [Side("ssljax", moco_step.ours, step), Side("its convolutions alone, cuDNN", convolutions_alone, alone)]


def convolutions(depth: int, size: int) -> Counter[Convolution]:
    """The convolutions of torchvision's ResNet on pictures of `size`, and how often each is there."""
    torch = need("torch")
    with torch.device("meta"):
        net, picture = moco_step.torch_resnet(depth), torch.empty(1, 3, size, size)
    found: Counter[Convolution] = Counter()

    def note(module: Any, inputs: Any, output: Any) -> None:
        shapes = tuple(inputs[0].shape[1:]), tuple(module.weight.shape)
        found[Convolution(*shapes, module.stride[0], module.padding[0])] += 1

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    net.eval()(picture)
    return found


def convolutions_alone(depth: int, size: int, batch: int, gpu: bool) -> Ready:
    """A round is the sum over all convolutions of one step, in seconds; bfloat16 on a GPU, channels-last."""
    torch = need("torch")
    torch.backends.cudnn.benchmark = gpu
    place = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
    counted = convolutions(depth, size)

    def round() -> float:
        return sum(count * _seconds(torch, each, batch, place) for each, count in counted.items())

    return Ready(round, work=batch, facts={"convolutions": sum(counted.values()), "distinct": len(counted)})


def _seconds(torch: Any, each: Convolution, batch: int, place: dict[str, Any]) -> float:
    """Twice forward, and both gradients; the pictures themselves need none."""
    layout = {"memory_format": torch.channels_last}
    x = torch.randn(batch, *each.input, **place).contiguous(**layout)
    kernel = torch.randn(each.kernel, **place).contiguous(**layout)
    like = [each.stride] * 2, [each.padding] * 2, [1, 1], False, [0, 0], 1

    def forward():
        return torch.ops.aten.convolution(x, kernel, None, *like)

    out = torch.randn_like(forward())

    def gradient(*wanted: bool):
        return torch.ops.aten.convolution_backward(out, x, kernel, None, *like, [*wanted, False])

    total = 2 * _time(torch, forward) + _time(torch, lambda: gradient(False, True))
    return total + (_time(torch, lambda: gradient(True, False)) if each.input[0] > 3 else 0.0)


def _time(torch: Any, work: Any, repeats: int = 5) -> float:
    """The least of some repeats: what the convolution needs at best."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    least = float("inf")
    for number in range(repeats + 1):
        synchronize()
        began = time.perf_counter()
        work()
        synchronize()
        if number:  # the first one chooses the kernel
            least = min(least, time.perf_counter() - began)
    return least
