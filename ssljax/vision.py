"""Pictures as a task: how an experiment reads them, watches kNN, fills the final table and the report."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax import diagnostics, vision_page
from ssljax.data import loader, pictures, sources, views
from ssljax.evals import features, fractions, knn, linear
from ssljax.experiment import RunConfig, Task
from ssljax.interop import torchvision
from ssljax.records import Results
from ssljax.types import Batch, Method, PyTree

POINTS = 2000  # test pictures that the diagnostics and the report's map look at


class Knn(NamedTuple):
    """Weighted kNN: neighbours, temperature, and which of the method's features (`backbone`, `embedding`)."""

    k: int = 200
    temperature: float = 0.1
    on: str = "embedding"


KNN = Knn()


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A data set and the way a representation of it is judged.

    Attributes:
        data: `tfds:NAME`, `folder:PATH`, `arrays:FILE.npz` or `embedded:fashion_mnist`.
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


def imagenet(data: str, test: str, size: int, probe_epochs: int, probe_batch_size: int) -> Pictures:
    """ImageNet as MoCo judges it: crops on the host, kNN on a sample, the paper's linear probe at the end."""
    probe = dataclasses.replace(linear.MOCO, epochs=probe_epochs, batch_size=probe_batch_size)
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


def open_task(spec: Pictures, config: RunConfig, method: Method, batch_size: int, two_views: Any) -> Task:
    """Open the two splits and bind what the run needs of them.

    Raises:
        BadInputError: the data set, a split or its labels are missing, or it is smaller than a batch.
    """
    options = {"skip_bad": config.skip_bad, "data_dir": config.data_dir, "min_side": spec.size}
    train = sources.open_source(spec.data, spec.train, **options)
    test = sources.open_source(spec.data, spec.test, **options)
    sources.check_enough(train, batch_size)
    for source in (train, test):
        sources.require_labels(source)
    crops = None if spec.size is None else pictures.random_crops(spec.size, spec.scale)
    centre = None if spec.size is None else pictures.resize_center(spec.size, spec.resize)
    features_fn = _features_fn(method, spec)
    shape = _record_shape(train, crops)
    bank = functools.cache(lambda: loader.load_all(train, transform=centre, limit=spec.bank))
    tested = functools.cache(lambda: loader.load_all(test, transform=centre))

    def batches(first: int, last: int) -> Iterator[Batch]:
        return loader.batches(
            train,
            batch_size=batch_size,
            seed=config.seed,
            start_step=first,
            num_steps=last,
            transform=crops,
            workers=config.workers,
        )

    def monitor(params: PyTree, aux: PyTree) -> dict[str, float]:
        figures = _monitor(spec, features_fn, (params, aux), bank(), tested(), train.num_classes)
        return figures | ({"skipped_pictures": len(train.bad | test.bad)} if config.skip_bad else {})

    return Task(
        examples=len(train),
        batches=batches,
        batch_shapes=({"image": jax.ShapeDtypeStruct((batch_size, *shape), np.uint8)},),
        monitor=monitor,
        evaluate=lambda rows: _evaluate(spec, config, features_fn, method, rows, train, tested, centre),
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


def _monitor(spec, features_fn, variables, bank, test, num_classes) -> dict[str, float]:
    seen = features.extract(features_fn, variables, bank["image"])
    asked = features.extract(features_fn, variables, test["image"])
    sample = jax.numpy.asarray(asked["embedding"][:POINTS])
    return {
        "knn": _knn(spec.knn, seen, bank["label"], asked, test["label"], num_classes),
        "rankme": float(diagnostics.rankme(sample)),
        "uniformity": float(diagnostics.uniformity(sample)),
    }


def _knn(setting: Knn, train, train_labels, test, test_labels, num_classes) -> float:
    return knn.knn_accuracy(
        train[setting.on],
        train_labels,
        test[setting.on],
        test_labels,
        num_classes=num_classes,
        k=min(setting.k, len(train_labels)),
        temperature=setting.temperature,
    )


def _evaluate(spec, config, features_fn, method, rows, train_source, tested, centre) -> Results:
    test = tested()
    if spec.probe is not None:
        *_, (label, variables) = rows.items()
        return {label: {"linear": _paper_probe(spec, config, method, variables, train_source, test)}}
    train = loader.load_all(train_source, transform=centre)
    results = {"pixels": _quick_row(spec, train_source.num_classes, *_pixel_features(train, test))}
    for label, variables in rows.items():
        with features.unchanged(variables):
            seen = features.extract(features_fn, variables, train["image"])
            asked = features.extract(features_fn, variables, test["image"])
        found = (seen, train["label"], asked, test["label"])
        results[label] = _quick_row(spec, train_source.num_classes, *found)
    return results


def _pixel_features(train, test):
    def flat(images):
        pixels = images.reshape(len(images), -1).astype(np.float32) / 255
        return {"backbone": pixels, "embedding": pixels}

    return flat(train["image"]), train["label"], flat(test["image"]), test["label"]


def _quick_row(spec, num_classes, train, train_labels, test, test_labels) -> dict[str, float]:
    probed = (train["backbone"], train_labels, test["backbone"], test_labels)
    few, _ = fractions.few_label_accuracy(*probed, num_classes=num_classes, per_class=10, draws=5)
    return {
        "knn": _knn(spec.knn, train, train_labels, test, test_labels, num_classes),
        "linear": linear.quick_probe(*probed, num_classes=num_classes),
        "linear_10_per_class": few,
    }


def _paper_probe(spec, config, method, variables, train, test) -> float:
    size, steps = spec.probe.batch_size, len(train) // spec.probe.batch_size
    crop = pictures.random_crops(spec.size, (0.08, 1.0), views=1)
    flipped = views.View(size=spec.size, scale=None, mean=spec.mean, std=spec.std)

    def features_fn(variables, view):
        return method.features(*variables, view)["backbone"]

    def train_batches(epoch):
        first = epoch * steps
        return loader.batches(
            train,
            batch_size=size,
            seed=config.seed,
            start_step=first,
            num_steps=first + steps,
            transform=crop,
            fields=("image", "label"),
            workers=config.workers,
        )

    def test_batches():
        for start in range(0, len(test["image"]), size):
            part = {name: values[start : start + size] for name, values in test.items()}
            yield {name: values[jax.process_index() :: jax.process_count()] for name, values in part.items()}

    probe = linear.linear_probe(
        features_fn,
        variables,
        train_batches,
        test_batches,
        train_view=lambda key, image: views.augment(key, image[:, 0], flipped),
        test_view=lambda image: views.normalize(image, spec.mean, spec.std),
        num_classes=train.num_classes,
        config=spec.probe,
        seed=config.seed,
        on_epoch=lambda epoch, loss: print(f"linear probe, epoch {epoch + 1}: loss {loss:.4f}", flush=True),
    )
    return probe.accuracy


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
