"""The pictures of a vision run's report: sample views, nearest neighbours, the embeddings to map."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ssljax import sharding
from ssljax.data import loader
from ssljax.evals import features
from ssljax.types import Array, PyTree
from ssljax.vision.pictures import Transform
from ssljax.vision.sources import Source
from ssljax.vision.views import TwoViews

SHOWN = 8


def page(
    features_fn: Callable[[PyTree, Array], dict[str, Array]],
    variables: PyTree,
    *,
    test: dict[str, np.ndarray],
    train: Source,
    crops: Transform | None,
    two_views: TwoViews,
    points: int,
) -> dict[str, Any]:
    """What `train.report.Report` shows of a representation.

    Args:
        features_fn: `(variables, images) -> {"backbone", "embedding"}`.
        variables: of the trained encoder.
        test: `{"image": uint8[N, H, W, C], "label": int[N]}`.
        train: where the sample views come from.
        crops: made on the host before the views, or None.
        two_views: the recipe of the views.
        points: how many test pictures are searched for neighbours and mapped.

    Returns:
        Fields of `Report` by name.
    """
    images, labels = test["image"][:points], test["label"][:points]
    embedded = features.extract(features_fn, variables, images)
    backbone = embedded["backbone"]
    asked = np.linspace(0, len(images) - 1, SHOWN).astype(int)
    unit = backbone / np.maximum(np.linalg.norm(backbone, axis=1, keepdims=True), 1e-12)
    similarity = unit[asked] @ unit.T
    similarity[np.arange(SHOWN), asked] = -np.inf
    nearest = np.argsort(-similarity, axis=1)[:, :SHOWN]
    return {
        "samples": sample_views(train, crops, two_views),
        "neighbours": (images[asked], images[nearest], labels[asked], labels[nearest]),
        "embeddings": (backbone, labels),
        "embedding_dim": embedded["embedding"].shape[1],
        "class_names": train.class_names,
    }


def sample_views(train: Source, crops: Transform | None, two_views: TwoViews) -> dict[str, np.ndarray]:
    """`{"image": uint8[n, H, W, C], "view_1": float[n, h, w, C], "view_2": ...}` of a few training pictures."""
    count = features.round_up(SHOWN, sharding.data_devices())
    records = [train[int(i)] for i in np.linspace(0, len(train) - 1, count)]
    if crops is not None:
        records = [crops(record, loader.record_rng(0, i)) for i, record in enumerate(records)]
    batch = np.stack([record["image"] for record in records])
    seen = jax.jit(lambda images: sharding.gather(two_views(jax.random.key(0), images)))(
        features.place(batch, split=True)
    )
    recipes = {"view_1": two_views.view_1, "view_2": two_views.view_2}
    shown = {name: to_pixels(view, recipes[name].mean, recipes[name].std)[:SHOWN] for name, view in seen.items()}
    return {"image": batch[:SHOWN] if batch.ndim == 4 else batch[:SHOWN, 0], **shown}


def to_pixels(view: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """A normalised view [..., C] as values in [0, 1]."""
    shape = (1,) * (np.ndim(view) - 1) + (len(mean),)
    return np.clip(np.asarray(view) * np.reshape(std, shape) + np.reshape(mean, shape), 0, 1)
