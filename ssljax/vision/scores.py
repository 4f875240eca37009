"""Evaluation of a representation of pictures: kNN during training, the final table."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ssljax import diagnostics
from ssljax.data import loader
from ssljax.data.records import Transform
from ssljax.evals import features, fractions, knn, linear, logistic
from ssljax.run.results import Results
from ssljax.run.task import Learner
from ssljax.types import Method
from ssljax.vision import views
from ssljax.vision.config import Knn, PictureConfig, Pictures
from ssljax.vision.controls import raw_features
from ssljax.vision.sources import Source

FEW = 10  # labels a class
POINTS = 2000  # test pictures that the diagnostics and the report's map use


class Data(NamedTuple):
    """The two splits of a set.

    Attributes:
        train: split to learn from.
        test: split to evaluate on; the same as `train` without labels.
        labelled: whether there are classes to evaluate on.
        centre: the central crop at evaluation, or None.
        bank: `() -> {"image", "label"}`, the training pictures that the kNN during training searches.
        tested: `() -> {"image", "label"}`, all test pictures; without labels `{"image"}` of up to `POINTS`.
    """

    train: Source
    test: Source
    labelled: bool
    centre: Transform | None
    bank: Callable[[], dict[str, np.ndarray]]
    tested: Callable[[], dict[str, np.ndarray]]


def evenly(count: int, most: int = POINTS) -> np.ndarray:
    """Numbers of at most `most` of `count` pictures, evenly spaced, so that a set sorted by class keeps its classes.

    >>> evenly(5, 2).tolist(), evenly(3, 9).tolist()
    ([0, 2], [0, 1, 2])
    """
    kept = min(count, most)
    return np.arange(kept) * count // max(kept, 1)


@functools.lru_cache(maxsize=8)
def features_fn(method: Method, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[..., dict[str, jax.Array]]:
    """`((params, aux), images uint8[B, H, W, C]) -> features`; the same function for the same arguments."""

    def apply(variables, images):
        params, aux = variables
        return method.features(params, aux, views.normalize(images, mean, std))

    return apply


def extract(evaluation: Pictures, learner: Learner, images: np.ndarray, *names: str) -> dict[str, np.ndarray]:
    """The features `names` of some pictures."""
    apply = features_fn(learner.method, evaluation.mean, evaluation.std)
    return features.extract(apply, (learner.params, learner.aux), images, names=tuple(dict.fromkeys(names)))


def monitor(evaluation: Pictures, learner: Learner, data: Data) -> dict[str, float]:
    """KNN accuracy of the test pictures among the bank's, and the spread of the embeddings of some of them."""
    bank, test, on = data.bank(), data.tested(), evaluation.knn.on
    seen = extract(evaluation, learner, bank["image"], on)
    asked = extract(evaluation, learner, test["image"], on, evaluation.embedding)
    accuracy = _knn(evaluation.knn, seen[on], bank["label"], asked[on], test["label"], data.train.num_classes)
    return {"knn": accuracy} | spread(asked[evaluation.embedding][evenly(len(test["image"]))])


def spread(embeddings: np.ndarray) -> dict[str, float]:
    """RankMe and uniformity of embeddings, float32[N, D]."""
    sample = jax.numpy.asarray(embeddings)
    return {"rankme": float(diagnostics.rankme(sample)), "uniformity": float(diagnostics.uniformity(sample))}


def _knn(setting: Knn, train, train_labels, test, test_labels, num_classes) -> float:
    k = min(setting.k, len(train_labels))
    return knn.knn_accuracy(
        train, train_labels, test, test_labels, num_classes=num_classes, k=k, temperature=setting.temperature
    )


def evaluations(
    evaluation: Pictures, config: PictureConfig, rows: dict[str, Learner], data: Data, trained_on: views.Views
) -> dict[str, Callable[[], Results]]:
    """The final table by parts: the paper's linear probe of the last of `rows`, or three quick figures for each.

    Args:
        evaluation: what is evaluated, and how.
        config: the run's options.
        rows: the models, the trained one last.
        data: the two splits.
        trained_on: the views that it was trained on.
    """
    if evaluation.probe is not None:
        *_, (label, learner) = rows.items()
        return {
            "linear probe": lambda: {label: {"linear": _paper_probe(evaluation, config, learner, data, trained_on)}}
        }
    train = functools.cache(lambda: loader.load_all(data.train, transform=data.centre))

    def row(label: str, learner: Learner) -> Results:
        names = (evaluation.backbone, evaluation.knn.on)
        with features.unchanged((learner.params, learner.aux)):
            seen = extract(evaluation, learner, train()["image"], *names)
            asked = extract(evaluation, learner, data.tested()["image"], *names)
        return {label: _quick_row(evaluation, data, seen, train()["label"], asked)}

    def pixels() -> Results:
        seen, asked = (raw_features(images["image"]) for images in (train(), data.tested()))
        both = [dict.fromkeys((evaluation.backbone, evaluation.knn.on), values) for values in (seen, asked)]
        return {"pixels": _quick_row(evaluation, data, both[0], train()["label"], both[1])}

    return {"pixels": pixels} | {label: functools.partial(row, label, learner) for label, learner in rows.items()}


def _quick_row(evaluation: Pictures, data: Data, train: dict, train_labels: np.ndarray, test: dict) -> dict[str, float]:
    num_classes, test_labels = data.train.num_classes, data.tested()["label"]
    assert num_classes is not None
    probed = (train[evaluation.backbone], train_labels, test[evaluation.backbone], test_labels)
    on = evaluation.knn.on
    row = {
        "knn": _knn(evaluation.knn, train[on], train_labels, test[on], test_labels, num_classes),
        "linear": logistic.quick_probe(*probed, num_classes=num_classes),
    }
    if fractions.smallest_class(train_labels) >= FEW:  # else a class has too few
        few, _ = fractions.few_label_accuracy(*probed, num_classes=num_classes, per_class=FEW, draws=5)
        row[f"linear_{FEW}_per_class"] = few
    return row


def _paper_probe(
    evaluation: Pictures, config: PictureConfig, learner: Learner, data: Data, trained_on: views.Views
) -> float:
    probe, train, test = evaluation.probe, data.train, data.tested()
    assert probe is not None
    assert train.num_classes is not None
    size, steps = probe.batch_size, len(train) // probe.batch_size
    view = views.View(size=trained_on.sizes[0], scale=(0.08, 1.0), mean=evaluation.mean, std=evaluation.std)
    crops = views.Views((view,), on_host=True)
    backbone = evaluation.backbone

    def of_view(variables, view):
        params, aux = variables
        return learner.method.features(params, aux, view)[backbone]

    def train_batches(epoch):
        first = epoch * steps
        return loader.batches(
            train,
            batch_size=size,
            seed=config.seed,
            start_step=first,
            num_steps=first + steps,
            transform=crops.host_crops(),
            fields=(*crops.batch_shapes(size), "label"),
            workers=config.workers,
        )

    def test_batches():
        for start in range(0, len(test["image"]), size):
            part = {name: values[start : start + size] for name, values in test.items()}
            yield {name: values[jax.process_index() :: jax.process_count()] for name, values in part.items()}

    found = linear.linear_probe(
        of_view,
        (learner.params, learner.aux),
        train_batches,
        test_batches,
        train_view=lambda key, **inputs: crops(key, **inputs)["view_1"],
        test_view=lambda image: views.normalize(image, evaluation.mean, evaluation.std),
        num_classes=train.num_classes,
        config=probe,
        seed=config.seed,
        on_epoch=lambda epoch, loss: print(f"linear probe, epoch {epoch + 1}: loss {loss:.4f}", flush=True),
    )
    return found.accuracy
