"""The pictures of a vision run's report: sample views, nearest neighbours, the embeddings to map."""

from typing import Any

import numpy as np

from ssljax.run.task import Learner
from ssljax.vision import label_free, samples, scores
from ssljax.vision.config import Pictures
from ssljax.vision.scores import Data
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
        "samples": samples.drawn(data.train, views, np.linspace(0, len(data.train) - 1, SHOWN).astype(int).tolist()),
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
