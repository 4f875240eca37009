"""Pictures as a task: how an experiment reads them, monitors kNN, fills the final table and the report."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ssljax.data import loader
from ssljax.data.order import batch_indices
from ssljax.data.records import check_enough, require_labels
from ssljax.optim import Optimizer, Pace
from ssljax.run import results
from ssljax.run.experiment import Experiment
from ssljax.run.task import Learner, Task
from ssljax.types import Method
from ssljax.vision import export, page, pictures, scores, sources
from ssljax.vision.config import PictureConfig, Pictures
from ssljax.vision.scores import Data
from ssljax.vision.sources import Source
from ssljax.vision.splits import open_splits
from ssljax.vision.views import Views


def pretraining(
    config: PictureConfig,
    method: Callable[[Pace], Method],
    optimizer: Callable[[Pace], Optimizer],
    *,
    label: str,
    views: Views,
    evaluation: Pictures,
) -> Experiment:
    """Pre-training on pictures as an experiment, named as the module that defines the config.

    Args:
        config: its options.
        method: `pace -> method`.
        optimizer: `pace -> optimizer`.
        label: what the trained model is called in the results table.
        views: views of each picture.
        evaluation: how the representation is evaluated.
    """
    return Experiment(
        name=results.module_of(config),
        label=label,
        method=method,
        views=views,
        optimizer=optimizer,
        batch_size=config.batch_size,
        epochs=config.epochs,
        task=lambda: open_task(config, evaluation, views),
    )


def open_task(config: PictureConfig, evaluation: Pictures, views: Views) -> Task:
    """Open the two splits and bind what the run needs of them.

    Raises:
        BadInputError: the data set, a split or its labels are missing, or it is smaller than a batch.
    """
    data = _open(config, evaluation, views)
    train, size = data.train, config.batch_size
    shapes = _batch_shapes(train, views, size)

    def batches(first: int, last: int, shift: int, undrawn: bool = False) -> Iterator[Any]:
        return loader.batches(
            train,
            batch_size=size,
            seed=config.seed,
            start_step=first,
            num_steps=last,
            shift=shift,
            transform=views.host_crops(),
            fields=tuple(shapes),
            workers=config.workers,
            undrawn=undrawn,
        )

    def monitor(learner: Learner) -> dict[str, float]:
        figures = scores.monitor(evaluation, learner, data)
        return figures | ({"skipped_pictures": len(train.bad | data.test.bad)} if config.skip_bad else {})

    return Task(
        examples=len(train),
        batches=batches,
        undrawn=functools.partial(batches, undrawn=True),
        samples=lambda step, shift: batch_indices(config.seed, step + shift, size=len(train), batch_size=size).tolist(),
        fingerprint=train.fingerprint,
        batch_shapes=(shapes,),
        inputs=_input_shape(train, views, size),
        features=(evaluation.backbone, evaluation.embedding, evaluation.knn.on),
        monitor=monitor,
        evaluations=lambda rows: scores.evaluations(evaluation, config, rows, data, views),
        page=lambda learner, log: page.page(evaluation, learner, data, views),
        export=functools.partial(export.export, evaluation.writer),
        headline=("loss", "pretext_top1", "knn"),
    )


def _open(config: PictureConfig, evaluation: Pictures, views: Views) -> Data:
    side = max(views.sizes) if views.on_host else None
    options = {"skip_bad": config.skip_bad, "data_dir": config.data_dir, "min_side": side}
    train, test, notes = open_splits(
        lambda split: sources.open_source(config.data, split, **options), evaluation.train, evaluation.test
    )
    for note in notes:
        print(note)
    check_enough(train, config.batch_size)
    for source in (train, test):
        require_labels(source)
    centre = pictures.resize_center(views.sizes[0], evaluation.resize) if views.on_host else None
    return Data(
        train=train,
        test=test,
        centre=centre,
        bank=functools.cache(lambda: loader.load_all(train, transform=centre, limit=evaluation.bank)),
        tested=functools.cache(lambda: loader.load_all(test, transform=centre)),
    )


def _batch_shapes(train: Source, views: Views, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of the loader's."""
    shape = train[0]["image"].shape
    if views.on_host:
        return views.batch_shapes(batch_size, shape[-1])
    return {"image": jax.ShapeDtypeStruct((batch_size, *shape), np.uint8)}


def _input_shape(train: Source, views: Views, batch_size: int) -> jax.ShapeDtypeStruct:
    """A batch of pictures as they are evaluated."""
    shape = train[0]["image"].shape
    side = (views.sizes[0],) * 2 if views.on_host else shape[:2]
    return jax.ShapeDtypeStruct((batch_size, *side, shape[-1]), np.float32)
