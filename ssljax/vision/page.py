"""The pictures of a vision run's report: sample views, nearest neighbours, the embeddings to map."""

from typing import Any

import jax
import numpy as np

from ssljax import sharding
from ssljax.data import loader
from ssljax.evals import features
from ssljax.run.task import Learner
from ssljax.vision import label_free, scores
from ssljax.vision.config import Pictures
from ssljax.vision.scores import Data
from ssljax.vision.sources import Source
from ssljax.vision.views import Views

SHOWN, CLUSTERS = 8, 10


def page(evaluation: Pictures, learner: Learner, data: Data, views: Views) -> dict[str, Any]:
    """What `train.report.page.Report` shows of a representation.

    Args:
        evaluation: how it is evaluated.
        learner: the trained model.
        data: the two splits.
        views: that it was trained on.

    Returns:
        Fields of `Report` by name.
    """
    test = data.tested()
    some = scores.evenly(len(test["image"]))
    images = test["image"][some]
    found = scores.extract(evaluation, learner, images, evaluation.backbone, evaluation.embedding)
    backbone = found[evaluation.backbone]
    labels = test["label"][some] if data.labelled else None
    shown = {
        "samples": sample_views(data.train, views),
        "neighbours": neighbours_of(images, backbone, labels),
        "embedding_dim": found[evaluation.embedding].shape[1],
    }
    if labels is not None:
        return shown | {"embeddings": (backbone, labels), "class_names": data.train.class_names}
    clusters = _clusters(backbone)
    names = [f"cluster {number + 1}" for number in range(clusters.max() + 1)]
    coloured = {"embeddings": (backbone, clusters), "class_names": names, "colours": "k-means, as there are no labels"}
    return shown | coloured | {"results_note": label_free.NOTE}


def neighbours_of(images: np.ndarray, backbone: np.ndarray, labels: np.ndarray | None) -> tuple:
    """A few pictures, those nearest to them by cosine similarity, and the labels of both."""
    asked = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).astype(int)
    unit = backbone / np.maximum(np.linalg.norm(backbone, axis=1, keepdims=True), 1e-12)
    similarity = unit[asked] @ unit.T
    similarity[np.arange(len(asked)), asked] = -np.inf
    nearest = np.argsort(-similarity, axis=1)[:, : min(SHOWN, len(images) - 1)]
    both = (None, None) if labels is None else (labels[asked], labels[nearest])
    return images[asked], images[nearest], *both


def _clusters(backbone: np.ndarray) -> np.ndarray:
    """K-means clusters of unit features, int[N]; up to ten."""
    from sklearn.cluster import KMeans

    unit = backbone / np.maximum(np.linalg.norm(backbone, axis=1, keepdims=True), 1e-12)
    count = min(CLUSTERS, len(np.unique(unit, axis=0)))
    return KMeans(count, n_init="auto", random_state=0).fit_predict(unit)


def sample_views(train: Source, views: Views) -> dict[str, np.ndarray]:
    """`{"image": uint8[n, H, W, C], "view_1": float[n, h, w, C], "view_2": ...}` of a few training pictures."""
    count, crops = features.round_up(SHOWN, sharding.data_devices()), views.host_crops()
    records = [train[int(i)] for i in np.linspace(0, len(train) - 1, count)]
    if crops is not None:
        records = [crops(record, loader.record_rng(0, i)) for i, record in enumerate(records)]
    names = tuple(views.batch_shapes(count)) if views.on_host else ("image",)
    batch = {name: np.stack([record[name] for record in records]) for name in names}
    placed = {name: features.place(values, split=True) for name, values in batch.items()}
    seen = jax.jit(lambda batch: sharding.gather(views(jax.random.key(0), **batch)))(placed)
    recipes = dict(zip(views.names, views.recipes, strict=True))
    shown = {name: to_pixels(view, recipes[name].mean, recipes[name].std)[:SHOWN] for name, view in seen.items()}
    whole = batch[names[0]][:SHOWN]
    return {"image": whole[:, 0] if views.on_host else whole, **shown}


def to_pixels(view: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """A normalised view [..., C] as values in [0, 1]."""
    shape = (1,) * (np.ndim(view) - 1) + (len(mean),)
    return np.clip(np.asarray(view) * np.reshape(std, shape) + np.reshape(mean, shape), 0, 1)
