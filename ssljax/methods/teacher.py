"""What methods with a momentum encoder share: copies at the start, the average, views apart or by size, features."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssljax import ema
from ssljax.types import Array, BadInputError, Encoder, PyTree

Momentum = float | Callable[[Array], Any]


def check_momentum(momentum: Momentum) -> None:
    """Make sure that a constant momentum lies in [0, 1].

    Raises:
        BadInputError: it does not. A schedule is checked where it is made.
    """
    if not callable(momentum):
        ema.check_momentum(momentum)


def check_temperature(temperature: float) -> None:
    """Make sure that a temperature can divide logits.

    Raises:
        BadInputError: it is not a finite number above 0.
    """
    if not 0 < temperature < float("inf"):
        raise BadInputError(f"temperature={temperature}: the logits are divided by it; use a number above 0.")


def copy(tree: PyTree) -> PyTree:
    """The same values in buffers of their own: a donated state must not hold one buffer twice."""
    return jax.tree.map(jnp.copy, tree)


def momentum_at(momentum: Momentum, step: Array) -> Any:
    """The momentum that makes the teacher of `step`, counted from 0."""
    return momentum(step) if callable(momentum) else momentum


def average(teacher: PyTree, student: PyTree, momentum: Momentum, step: Array) -> PyTree:
    """The teacher of the next step: `m * teacher + (1 - m) * student` after the update of `step`.

    Args:
        teacher: float parameters.
        student: parameters of the same structure, or with more entries at the top, such as a predictor.
        momentum: m in [0, 1]; or `step -> m`, the momentum with which the teacher of that step is made.
        step: int32 scalar, the number of updates before the present one.

    Returns:
        A tree like `teacher`.

    Differs from the paper:
        The official codes of MoCo and MoCo v3 average before the next step's keys are made instead of after the
        update: the same sequence, since their very first average is of equal encoders.
    """
    return ema.ema(teacher, {name: student[name] for name in teacher}, momentum_at(momentum, step + 1))


def apart(
    encoder: Encoder, params: PyTree, stats: PyTree, views: Sequence[Array], key: Array
) -> tuple[list[Array], PyTree]:
    """Each view's outputs from a pass of its own, so that BatchNorm sees one view at a time.

    Args:
        encoder: views [B, h, w, C] -> outputs [B, D].
        params: of the encoder.
        stats: of the encoder.
        views: in order, of any sizes.
        key: of dropout and drop path; each pass has its own.

    Returns:
        The outputs in the order of the views, and the statistics that all passes have moved.
    """
    outputs = []
    for number, view in enumerate(views):
        output, stats = encoder.apply(params, stats, view, train=True, key=jax.random.fold_in(key, number))
        outputs.append(output)
    return outputs, stats


def by_size(
    encoder: Encoder, params: PyTree, stats: PyTree, views: Sequence[Array], key: Array
) -> tuple[list[Array], PyTree]:
    """Each view's outputs from one pass for all consecutive views of one size, as multi-crop methods do it.

    BatchNorm sees the views of a size together. The arguments and results are those of `apart`.

    Reference:
        `MultiCropWrapper` of facebookresearch/dino (utils.py), `forward` of facebookresearch/swav (resnet50.py).

    Differs from the paper:
        The views of a pass are interleaved, the rows of a picture next to each other, so that each device keeps its
        own pictures; statistics of the whole batch are the same.
    """
    groups: list[list[Array]] = []
    for view in views:
        if groups and groups[-1][0].shape == view.shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    outputs = []
    for number, group in enumerate(groups):
        rows = jnp.stack(group, axis=1)
        rows = rows.reshape(-1, *rows.shape[2:])
        output, stats = encoder.apply(params, stats, rows, train=True, key=jax.random.fold_in(key, number))
        parts = output.reshape(-1, len(group), *output.shape[1:])
        outputs += [parts[:, i] for i in range(len(group))]
    return outputs, stats


def features(backbone: Encoder, projector: Encoder, params: PyTree, stats: PyTree, inputs: Array) -> dict[str, Array]:
    """Features in eval mode: `"backbone"` [B, F] and `"embedding"` [B, D], the projector's output.

    Args:
        backbone: inputs [B, ...] -> [B, F].
        projector: [B, F] -> [B, D].
        params: with entries `"backbone"` and `"projector"`.
        stats: likewise.
        inputs: [B, ...], normalised.
    """
    outputs, _ = backbone.apply(params["backbone"], stats["backbone"], inputs, train=False)
    embedding, _ = projector.apply(params["projector"], stats["projector"], outputs, train=False)
    return {"backbone": outputs, "embedding": embedding}


def backbone_of(params: PyTree, stats: PyTree) -> tuple[PyTree, PyTree]:
    """Parameters and statistics of the backbone alone, what is exported."""
    return params["backbone"], stats["backbone"]
