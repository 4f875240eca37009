"""Pictures as a task: how an experiment reads them, watches kNN, fills the final table and the report."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssljax.data import loader
from ssljax.data.order import batch_indices
from ssljax.data.records import check_enough, require_labels
from ssljax.evals import linear
from ssljax.interop import torchvision
from ssljax.run.experiment import RunConfig, Task
from ssljax.types import Method, PyTree
from ssljax.vision import page as vision_page
from ssljax.vision import pictures, sources, views
from ssljax.vision import scores as vision_scores
from ssljax.vision.scores import POINTS, Knn

KNN = Knn()


@dataclasses.dataclass(frozen=True)
class PictureConfig(RunConfig):
    """The options of every experiment with pictures."""

    data_dir: str | None = None
    """Where tensorflow-datasets keeps its sets; None: its default."""
    workers: int = 0
    """Processes that read and decode when the set does not fit on the device."""
    skip_bad: bool = False
    """Go on past pictures that cannot be read, and count them."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A data set and the way a representation of it is judged.

    Attributes:
        data: `tfds:NAME`, `folder:PATH`, `arrays:FILE.npz`, `packed:DIR` or `embedded:fashion_mnist`.
        mean: of each channel in [0, 1], for evaluation; the views have their own.
        std: of each channel, likewise.
        train: split to learn from.
        test: split to be judged on.
        size: side of the pictures in pixels once cropped on the host; None where all have one size already.
        resize: shorter side before the central crop at evaluation, with `size`.
        scale: area range of the random-resized-crop on the host, with `size`.
        knn: what the kNN figures mean.
        bank: how many training pictures the kNN during training looks at; None: all.
        probe: None for logistic regression on cached features (all labels, and 10 labels a class), with raw pixels
            and the untrained encoder beside it; or the numbers of a paper's linear probe.
    """

    data: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: str = "train"
    test: str = "test"
    size: int | None = None
    resize: int = 256
    scale: tuple[float, float] = (0.2, 1.0)
    knn: Knn = KNN
    bank: int | None = None
    probe: linear.ProbeConfig | None = None


def imagenet(
    data: str, test: str, size: int, probe_epochs: int, probe_batch_size: int, probe: linear.ProbeConfig = linear.MOCO
) -> Pictures:
    """ImageNet as MoCo judges it: crops on the host, kNN on a sample, the paper's linear probe at the end."""
    probe = dataclasses.replace(probe, epochs=probe_epochs, batch_size=probe_batch_size)
    return Pictures(
        data,
        views.IMAGENET_MEAN,
        views.IMAGENET_STD,
        test=test,
        size=size,
        resize=size * 8 // 7,
        knn=Knn(200, 0.1, "embedding"),
        bank=50_000,
        probe=probe,
    )


def open_task(spec: Pictures, config: PictureConfig, method: Method, batch_size: int, two_views: Any) -> Task:
    """Open the two splits and bind what the run needs of them.

    Raises:
        BadInputError: the data set, a split or its labels are missing, or it is smaller than a batch.
    """
    options = {"skip_bad": config.skip_bad, "data_dir": config.data_dir, "min_side": spec.size}
    train = sources.open_source(spec.data, spec.train, **options)
    test = sources.open_source(spec.data, spec.test, **options)
    check_enough(train, batch_size)
    for source in (train, test):
        require_labels(source)
    crops = None if spec.size is None else pictures.random_crops(spec.size, spec.scale)
    centre = None if spec.size is None else pictures.resize_center(spec.size, spec.resize)
    features_fn = _features_fn(method, spec)
    shape = _record_shape(train, crops)
    bank = functools.cache(lambda: loader.load_all(train, transform=centre, limit=spec.bank))
    tested = functools.cache(lambda: loader.load_all(test, transform=centre))

    def batches(first: int, last: int, shift: int, undrawn: bool = False) -> Iterator[Any]:
        return loader.batches(
            train,
            batch_size=batch_size,
            seed=config.seed,
            start_step=first,
            num_steps=last,
            shift=shift,
            transform=crops,
            workers=config.workers,
            undrawn=undrawn,
        )

    def monitor(params: PyTree, aux: PyTree) -> dict[str, float]:
        figures = vision_scores.monitor(spec, features_fn, (params, aux), bank(), tested(), train.num_classes)
        return figures | ({"skipped_pictures": len(train.bad | test.bad)} if config.skip_bad else {})

    return Task(
        examples=len(train),
        batches=batches,
        undrawn=functools.partial(batches, undrawn=True),
        samples=lambda step, shift: batch_indices(
            config.seed, step + shift, size=len(train), batch_size=batch_size
        ).tolist(),
        fingerprint=train.fingerprint,
        batch_shapes=({"image": jax.ShapeDtypeStruct((batch_size, *shape), np.uint8)},),
        monitor=monitor,
        evaluate=lambda rows: vision_scores.evaluate(spec, config, features_fn, method, rows, train, tested, centre),
        page=lambda params, aux, log: vision_page.page(
            features_fn, (params, aux), test=tested(), train=train, crops=crops, two_views=two_views, points=POINTS
        ),
        export=_export,
        headline=("loss", "pretext_top1", "knn"),
    )


def _features_fn(method: Method, spec: Pictures) -> Callable[[PyTree, jax.Array], dict[str, jax.Array]]:
    def features_fn(variables, images):
        params, aux = variables
        return method.features(params, aux, views.normalize(images, spec.mean, spec.std))

    return features_fn


def _record_shape(source: Any, transform: Any) -> tuple[int, ...]:
    record = source[0]
    return (transform(record, loader.record_rng(0, 0)) if transform else record)["image"].shape


def _export(params: PyTree, aux: Any, directory: str) -> None:
    """Leave the backbone, a ResNet, in `directory/backbone.safetensors`."""
    from etils import epath

    target = epath.Path(directory) / "backbone.safetensors"
    if target.exists():  # of this very run, stopped later on
        return
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / target.name
        torchvision.save_safetensors(written, params["backbone"], aux.stats["backbone"])
        partial = epath.Path(written).copy(target.with_suffix(".partial"))
        partial.replace(target)
