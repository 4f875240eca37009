"""What a field, such as pictures or text, brings to a run: its batches, and how what they teach is judged."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ssljax.data.resident import Resident
from ssljax.run.results import Results
from ssljax.types import Batch, Method, PyTree


class Learner(NamedTuple):
    """A method with one set of its parameters, trained or not: what evaluation, page and export read."""

    method: Method
    params: PyTree
    aux: PyTree


class Task(NamedTuple):
    """What a field brings to a run.

    Attributes:
        examples: number of training examples.
        batches: `(first_step, last_step, shift) -> iterator` of global batches on the devices; the batch of step n
            holds the data of n + `shift`.
        undrawn: the same, but a set that is resident on the devices comes as the `resident.Resident` that the train
            step draws these batches from; None: `batches`.
        samples: `(step, shift) -> list` that names the samples of such a batch.
        fingerprint: of the data: a run is not resumed with other data.
        batch_shapes: a batch of each shape that `batches` yields, in order, as `jax.ShapeDtypeStruct`s.
        inputs: what `Method.features` is given, as `jax.ShapeDtypeStruct`s; None: the method has none to check.
        features: names of the method's features that evaluation reads.
        monitor: `learner -> {name: figure}` during training; anything else that JSON holds is logged as well.
        evaluations: `{row: learner} -> {part: function}`; each function returns rows of the results table by itself,
            `{row: {column: figure}}`, and rows may be added. What one part finds is kept if another fails.
        page: `(learner, log) -> {field of Report: value}`, what the report shows besides curves and table; `log`
            are the rows of metrics.jsonl.
        export: `(learner, directory) -> sentence`: writes the encoder there for other libraries, unless it is there,
            and says what was written, or why nothing was.
        headline: the figures that the progress bar shows.
    """

    examples: int
    batches: Callable[[int, int, int], Iterator[Batch]]
    samples: Callable[[int, int], list[Any]]
    fingerprint: str
    batch_shapes: tuple[Batch, ...]
    monitor: Callable[[Learner], dict[str, Any]]
    evaluations: Callable[[dict[str, Learner]], dict[str, Callable[[], Results]]]
    page: Callable[[Learner, list[dict[str, Any]]], dict[str, Any]]
    export: Callable[[Learner, str], str]
    inputs: Any = None
    features: tuple[str, ...] = ()
    headline: tuple[str, ...] = ("loss",)
    undrawn: Callable[[int, int, int], Iterator[Batch | Resident]] | None = None
