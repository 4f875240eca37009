"""How good a representation of pictures is: kNN while it trains, the final table."""

from typing import NamedTuple

import jax
import numpy as np

from ssljax import diagnostics
from ssljax.data import loader
from ssljax.evals import features, fractions, knn, linear
from ssljax.run.results import Results
from ssljax.vision import pictures, views

POINTS = 2000  # test pictures that the diagnostics and the report's map look at


class Knn(NamedTuple):
    """Weighted kNN: neighbours, temperature, and which of the method's features (`backbone`, `embedding`)."""

    k: int = 200
    temperature: float = 0.1
    on: str = "embedding"


def monitor(spec, features_fn, variables, bank, test, num_classes) -> dict[str, float]:
    """KNN accuracy of the pictures `test` among `bank`, and the spread of the embeddings of some of them."""
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


def evaluate(spec, config, features_fn, method, rows, train_source, tested, centre) -> Results:
    """The final table: the paper's linear probe (`spec.probe`) of the last of `rows`, or three quick figures each."""
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
