"""Pictures as a task: how an experiment reads them, monitors kNN, fills the final table and the report."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ssljax.data import loader
from ssljax.data.order import batch_indices, record_rng
from ssljax.data.records import check_enough
from ssljax.optim import Optimizer, Pace
from ssljax.run import results
from ssljax.run.experiment import Experiment
from ssljax.run.results import Results
from ssljax.run.task import Learner, Task
from ssljax.types import Method
from ssljax.vision import export, label_free, page, pictures, scores, sources
from ssljax.vision.config import PictureConfig, Pictures, Preprocessing
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
    **more: Any,
) -> Experiment:
    """Pre-training on pictures as an experiment, named as the module that defines the config.

    Args:
        config: its options.
        method: `pace -> method`.
        optimizer: `pace -> optimizer`.
        label: what the trained model is called in the results table.
        views: views of each picture.
        evaluation: how the representation is evaluated.
        **more: further fields of the experiment, or other values for those that come from the config.
    """
    fields: dict[str, Any] = {"batch_size": config.batch_size, "epochs": config.epochs} | more
    return Experiment(
        name=results.module_of(config),
        label=label,
        method=method,
        views=views,
        optimizer=optimizer,
        task=lambda: open_task(config, evaluation, views),
        **fields,
    )


def open_task(config: PictureConfig, evaluation: Pictures, views: Views) -> Task:
    """Open the two splits and bind what the run needs of them.

    Raises:
        BadInputError: the data set or a split is missing, or it is smaller than a batch.
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
        if data.labelled:
            figures = scores.monitor(evaluation, learner, data)
        else:
            figures = label_free.figures(evaluation, learner, data, views)
        return figures | ({"skipped_pictures": len(train.bad | data.test.bad)} if config.skip_bad else {})

    def evaluations(rows: dict[str, Learner]) -> dict[str, Callable[[], Results]]:
        if data.labelled:
            return scores.evaluations(evaluation, config, rows, data, views)
        return label_free.evaluations(evaluation, rows, data, views)

    return Task(
        examples=len(train),
        batches=batches,
        undrawn=functools.partial(batches, undrawn=True),
        samples=lambda step, shift: batch_indices(config.seed, step + shift, size=len(train), batch_size=size).tolist(),
        fingerprint=train.fingerprint,
        batch_shapes=(shapes,),
        inputs=_input_shape(data, size),
        features=(evaluation.backbone, evaluation.embedding, evaluation.knn.on),
        monitor=monitor,
        evaluations=evaluations,
        page=lambda learner, log: page.page(evaluation, learner, data, views),
        export=functools.partial(export.export, evaluation.writer, _preprocessing(evaluation, data, views)),
        headline=("loss", "pretext_top1", "knn" if data.labelled else "rankme"),
    )


def _open(config: PictureConfig, evaluation: Pictures, views: Views) -> Data:
    side = max(views.sizes) if views.on_host else None
    options = {"skip_bad": config.skip_bad, "data_dir": config.data_dir, "channels": evaluation.channels}
    splits = open_splits(
        lambda split: sources.open_source(config.data, split, min_side=side, **options),
        evaluation.train,
        evaluation.test,
    )
    train, test = splits.train, splits.test
    for note in splits.notes:
        print(note)
    check_enough(train, config.batch_size)
    centre, shape = None, train[0]["image"].shape[:2]
    if views.on_host:
        centre = pictures.resize_center(evaluation.size or views.sizes[0], evaluation.resize)
    elif evaluation.size is not None and shape != (evaluation.size, evaluation.size):
        centre = pictures.resize_center(evaluation.size, evaluation.size)
    some = None if splits.labelled else scores.POINTS
    return Data(
        train=train,
        test=test,
        labelled=splits.labelled,
        centre=centre,
        bank=functools.cache(lambda: loader.load_all(train, transform=centre, limit=evaluation.bank)),
        tested=functools.cache(lambda: loader.load_all(test, transform=centre, limit=some)),
    )


def _preprocessing(evaluation: Pictures, data: Data, views: Views) -> Preprocessing:
    size = _input_shape(data, 1).shape[1]
    return Preprocessing(size, evaluation.resize if views.on_host else size, evaluation.mean, evaluation.std)


def _batch_shapes(train: Source, views: Views, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of the loader's."""
    shape = train[0]["image"].shape
    if views.on_host:
        return views.batch_shapes(batch_size, shape[-1])
    return {"image": jax.ShapeDtypeStruct((batch_size, *shape), np.uint8)}


def _input_shape(data: Data, batch_size: int) -> jax.ShapeDtypeStruct:
    """A batch of pictures as they are evaluated."""
    record = data.train[0]
    image = record["image"] if data.centre is None else data.centre(record, record_rng(0, 0))["image"]
    return jax.ShapeDtypeStruct((batch_size, *image.shape), np.float32)
