"""Figures of a representation that need no labels: its rank, its spectrum and what random views leave of it."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ssljax import diagnostics
from ssljax.run.results import Results
from ssljax.run.task import Learner
from ssljax.vision import samples, scores
from ssljax.vision.config import Pictures
from ssljax.vision.scores import Data
from ssljax.vision.sources import Source
from ssljax.vision.views import Views

SEEN, TIMES = 128, 8  # pictures, and random views of each, for LiDAR
NOTE = "Without labels: figures of the embeddings of up to 2,000 pictures, no accuracies."


def figures(evaluation: Pictures, learner: Learner, data: Data, views: Views) -> dict[str, float]:
    """RankMe, alpha-ReQ and uniformity of the embeddings of some pictures, and LiDAR of random views of a few.

    Args:
        evaluation: how a representation is evaluated.
        learner: the model.
        data: the two splits.
        views: that it is trained on.
    """
    some = scores.evenly(len(data.tested()["image"]))
    found = scores.extract(evaluation, learner, data.tested()["image"][some], evaluation.embedding)
    embeddings = found[evaluation.embedding]
    seen = random_views(data.train, views)
    of_views = scores.extract(evaluation, learner, seen.reshape(-1, *seen.shape[2:]), evaluation.embedding)
    return scores.spread(embeddings) | {
        "alpha_req": float(diagnostics.alpha_req(jnp.asarray(embeddings))),
        "lidar": float(diagnostics.lidar(jnp.asarray(of_views[evaluation.embedding]).reshape(*seen.shape[:2], -1))),
    }


def evaluations(
    evaluation: Pictures, rows: dict[str, Learner], data: Data, views: Views
) -> dict[str, Callable[[], Results]]:
    """The final table where there are no labels: `figures` of each of `rows`."""
    return {
        label: functools.partial(lambda label, learner: {label: figures(evaluation, learner, data, views)}, label, row)
        for label, row in rows.items()
    }


@functools.lru_cache(maxsize=1)
def random_views(train: Source, views: Views) -> np.ndarray:
    """The same random views of a few training pictures at each call, of the first view's recipe.

    Returns:
        uint8[n, q, size, size, C], n up to `SEEN` and q = `TIMES`.
    """
    once, indices = Views((views.recipes[0],), on_host=views.on_host), scores.evenly(len(train), SEEN).tolist()
    made = [samples.drawn(train, once, indices, seed)["view_1"] for seed in range(TIMES)]
    return np.rint(255 * np.stack(made, 1)).astype(np.uint8)
