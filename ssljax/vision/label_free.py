"""Figures of a representation that need no labels: its rank, its spectrum and what random views leave of it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import diagnostics, sharding
from ssljax.data.order import record_rng
from ssljax.data.records import Record
from ssljax.evals import features
from ssljax.run.results import Results
from ssljax.run.task import Learner
from ssljax.vision import scores
from ssljax.vision.config import Pictures
from ssljax.vision.scores import Data
from ssljax.vision.sources import Source
from ssljax.vision.views import View, Views

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
    embeddings = jnp.asarray(found[evaluation.embedding])
    seen = random_views(data.train, views)
    of_views = scores.extract(evaluation, learner, seen.reshape(-1, *seen.shape[2:]), evaluation.embedding)
    return {
        "rankme": float(diagnostics.rankme(embeddings)),
        "alpha_req": float(diagnostics.alpha_req(embeddings)),
        "lidar": float(diagnostics.lidar(jnp.asarray(of_views[evaluation.embedding]).reshape(*seen.shape[:2], -1))),
        "uniformity": float(diagnostics.uniformity(embeddings)),
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
    recipe = views.recipes[0]
    once, crops = Views((recipe,), on_host=views.on_host), Views((recipe,), on_host=views.on_host).host_crops()
    records = [train[int(index)] for index in scores.evenly(len(train), SEEN)]
    made = []
    for number in range(TIMES):
        seen: list[Record] = records
        if crops is not None:
            seen = [crops(record, record_rng(number, index)) for index, record in enumerate(records)]
        made.append(_pixels(once, recipe, seen, number))
    return np.stack(made, 1)


def _pixels(once: Views, recipe: View, records: list[Record], seed: int) -> np.ndarray:
    """A view of each record as uint8[n, size, size, C]."""
    names = tuple(once.batch_shapes(1)) if once.on_host else ("image",)
    count = features.round_up(len(records), sharding.data_devices())
    batch = {name: features.pad_rows(np.stack([record[name] for record in records]), count) for name in names}
    placed = {name: features.place(values, split=True) for name, values in batch.items()}
    seen = np.asarray(_drawn(once, jax.random.key(seed), placed)["view_1"])[: len(records)]
    values = seen * np.reshape(recipe.std, (1, 1, 1, -1)) + np.reshape(recipe.mean, (1, 1, 1, -1))
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=0)
def _drawn(views: Views, key, batch):
    return sharding.gather(views(key, **batch))
