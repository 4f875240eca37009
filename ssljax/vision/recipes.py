"""The methods that `ssljax pretrain` offers, each with its optimizer and the values of a small run."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ssljax.methods.moco import moco
from ssljax.methods.moco_v3 import moco_v3
from ssljax.methods.simclr import simclr
from ssljax.models import heads
from ssljax.optim import Pace
from ssljax.types import Encoder, Method

EMBEDDING = 128


class Chosen(NamedTuple):
    """The options of `ssljax pretrain` that are chosen from the data where they are not given; see `pretrain.Config`.

    `epochs` is None where steps are given, `queue_size` and `momentum` where the method has none.
    """

    backbone: str
    width: int
    stem: str
    size: int
    test_size: int
    batch_size: int
    epochs: int | None
    learning_rate: float
    queue_size: int | None
    momentum: float | None
    temperature: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    one_size: bool


class Recipe(NamedTuple):
    """A method for one's own data, trained by SGD.

    Attributes:
        method: `(chosen, backbone, features, dtype, pace) -> method`; `features` is the width of the backbone's output.
        learning_rate: peak for a batch of 256.
        temperature: of the logits.
        momentum: of the momentum encoder; None: there is none.
        groups: slices of the batch that BatchNorm treats apart, at most.
    """

    method: Callable[[Chosen, Encoder, int, Any, Pace], Method]
    learning_rate: float
    temperature: float
    momentum: float | None
    groups: int = 1


def _moco(chosen: Chosen, backbone: Encoder, features: int, dtype: Any, pace: Pace) -> Method:
    del pace
    projector = heads.mlp((features, EMBEDDING), dtype=dtype)
    queue_size, momentum = chosen.queue_size or 0, chosen.momentum or 0.0
    return moco(backbone, projector, queue_size=queue_size, momentum=momentum, temperature=chosen.temperature)


def _moco_v3(chosen: Chosen, backbone: Encoder, features: int, dtype: Any, pace: Pace) -> Method:
    layers, plain = (2 * features, EMBEDDING), {"batch_norm": True, "bias": False, "last_bias": False}
    projector = heads.mlp(layers, last_batch_norm=True, last_affine=False, dtype=dtype, **plain)
    parts = (backbone, projector, heads.mlp(layers, dtype=dtype, **plain))
    return moco_v3(*parts, temperature=chosen.temperature, momentum=pace.rising(chosen.momentum or 0.0))


def _simclr(chosen: Chosen, backbone: Encoder, features: int, dtype: Any, pace: Pace) -> Method:
    del pace
    projector = heads.mlp((features, EMBEDDING), batch_norm=True, bias=False, last_bias=False, dtype=dtype)
    return simclr(backbone, projector, temperature=chosen.temperature)


RECIPES = {
    "moco": Recipe(_moco, 0.12, 0.2, 0.99, groups=4),
    "moco_v3": Recipe(_moco_v3, 0.12, 0.2, 0.99),
    "simclr": Recipe(_simclr, 0.12, 0.2, None),
}
