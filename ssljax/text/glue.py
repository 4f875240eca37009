"""A GLUE task as rows of a results table: always the same answer, the words alone, the fine-tuned encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssljax.data import order
from ssljax.evals import baselines
from ssljax.evals.finetune import FinetuneConfig, finetune_seeds
from ssljax.models import bert
from ssljax.text import text_tasks
from ssljax.text.vocabulary import Vocabulary
from ssljax.types import BadInputError, Encoder, PyTree

Results = dict[str, dict[str, float]]


def finetune_task(
    encoder: Encoder,
    params: PyTree,
    vocabulary: Vocabulary,
    task: text_tasks.TextTask,
    train: text_tasks.Examples,
    dev: Sequence[text_tasks.Examples],
    *,
    config: FinetuneConfig,
    length: int = 128,
    seed: int = 0,
    bag_of_words: bool = True,
    say: Callable[[str], None] = print,
) -> tuple[Results, dict[str, Any]]:
    """Fine-tune a BERT on a task, several times, with the baselines beside it.

    Args:
        encoder: a BERT.
        params: the encoder's; not modified.
        vocabulary: vocabulary of the encoder.
        task: one of `text_tasks.TASKS`.
        train: the examples to learn.
        dev: the examples of each split that is evaluated, the chief one first.
        config: the numbers of fine-tuning.
        length: L, in tokens; longer examples are cut.
        seed: seed of the first run.
        bag_of_words: include the regression on words.
        say: called with a line for each run, and with warnings.

    Returns:
        `{"majority": {metric: per cent}, "bag of words": {...}, "fine-tuned": {metric: mean, metric + " sd": sd,
        "seeds": number}}`, and what `finetune_seeds` returns.
    """
    classes = max(1, len(task.labels))
    inputs = [text_tasks.inputs(vocabulary, examples, length) for examples in (train, *dev)]
    together = {name: np.concatenate([part[name] for part in inputs[1:]]) for name in inputs[0]}
    score = text_tasks.scorer(task, [examples.labels for examples in dev])
    data, options = (inputs[0], together), {"config": config, "score": score, "seed": seed, "say": say}
    found = finetune_seeds(encoder, bert.classifier(classes), params, *data, kind=task.kind, **options)
    rows = {"majority": found["majority"]}
    if bag_of_words:
        rows["bag of words"] = score(baselines.bag_of_words(train, _joined(dev), classes, seed))
    return rows | {"fine-tuned": summary(found)}, found


def drawn(count: int, wanted: int | None, seed: int) -> np.ndarray:
    """Which of `count` training examples are learned from: all, or as many as `train_examples` says, drawn by the seed.

    Raises:
        BadInputError: there are not so many.
    """
    if wanted is None:
        return np.arange(count)
    if not 1 <= wanted <= count:
        raise BadInputError(f"train_examples={wanted}: there are {count}; give 1 to that number.")
    return order.permutation(seed, 0, count)[:wanted]


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The columns of a results table from what `finetune_seeds` returns."""
    columns = {}
    for name, mean in found["mean"].items():
        columns |= {name: mean, f"{name} sd": found["sd"][name]}
    return columns | {"seeds": float(len(found["seeds"]))}


def _joined(dev: Sequence[text_tasks.Examples]) -> text_tasks.Examples:
    first = [sentence for examples in dev for sentence in examples.first]
    second = None if dev[0].second is None else [sentence for examples in dev for sentence in examples.second or ()]
    return text_tasks.Examples(first, second, np.concatenate([examples.labels for examples in dev]))
