"""Fine-tuning at the end of a text run: GLUE tasks as further columns of its results table."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ssljax.evals.finetune import FinetuneConfig
from ssljax.run.results import Results
from ssljax.text import glue, text_tasks
from ssljax.text.scores import Bert
from ssljax.text.vocabulary import Vocabulary
from ssljax.types import BadInputError, PyTree


class OpenTask(NamedTuple):
    """A task, the examples to learn, and those of each split to evaluate on."""

    task: text_tasks.TextTask
    train: text_tasks.Examples
    dev: list[text_tasks.Examples]


def read_tasks(config: Any) -> list[OpenTask]:
    """The tasks of `config.finetune`, before anything is trained.

    Raises:
        BadInputError: an entry is not TASK:SOURCE, or the task or its files are invalid.
    """
    found = []
    for entry in config.finetune:
        name, colon, source = entry.partition(":")
        if not colon:
            raise BadInputError(f"finetune={entry!r}: give TASK:DIRECTORY, such as SST-2:glue/SST-2.")
        task = text_tasks.find_task(name)
        dev = [text_tasks.read_task(task, source, split) for split in task.dev]
        found.append(OpenTask(task, text_tasks.read_task(task, source, "train"), dev))
    return found


def evaluations(
    label: str, tasks: list[OpenTask], parts: Bert, params: PyTree, vocabulary: Vocabulary, config: Any
) -> dict[str, Callable[[], Results]]:
    """Fine-tuning on each task: a column in the rows "majority", "bag of words" and `label`.

    The columns are the mean over the seeds, and its deviation beside it.
    """
    numbers = FinetuneConfig(
        epochs=config.finetune_epochs, learning_rate=config.finetune_learning_rate, seeds=config.finetune_seeds
    )
    length = min(128, parts.shape.positions)

    def tuned(one: OpenTask) -> Results:
        print(f"Fine-tuning on {one.task.name}: {len(one.train.first)} examples, {numbers.seeds} runs.", flush=True)
        found, _ = glue.finetune_task(
            parts.encoder, params, vocabulary, one.task, one.train, one.dev, config=numbers, length=length
        )
        rows: Results = {}
        for row, figures in found.items():
            named = {f"{one.task.name} {metric}": value for metric, value in figures.items() if metric != "seeds"}
            rows[label if row == "fine-tuned" else row] = named
        return rows

    return {one.task.name: functools.partial(tuned, one) for one in tasks}
