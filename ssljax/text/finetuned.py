"""A fine-tuned BERT that is kept: as transformers reads it, and with what is needed to predict from new rows."""

import json
from typing import Any, NamedTuple

import numpy as np

from ssljax import sharding
from ssljax.evals.finetune import predict as outputs_of
from ssljax.models import bert
from ssljax.text import export
from ssljax.text.own_task import UNSCALED, Scale
from ssljax.text.text_tasks import Examples, TextTask, inputs
from ssljax.text.vocabulary import Vocabulary
from ssljax.types import BadInputError, PyTree

OURS = "ssljax"  # the entry of config.json's task_specific_params


class Finetuned(NamedTuple):
    """A classifier, or a regression, of text.

    Attributes:
        params: `{"encoder", "classifier"}`.
        shape: of the encoder.
        vocabulary: its words.
        labels: names of the classes; one name for regression.
        regression: whether it predicts numbers.
        text: the columns of text that it was trained on; empty if that is not known.
        length: tokens of an example.
    """

    params: PyTree
    shape: bert.BertShape
    vocabulary: Vocabulary
    labels: tuple[str, ...]
    regression: bool
    text: tuple[str, ...]
    length: int


def save(
    directory: str,
    trained: PyTree,
    shape: bert.BertShape,
    vocabulary: Vocabulary,
    task: TextTask,
    length: int,
    scale: Scale = UNSCALED,
) -> str:
    """Write a fine-tuned model in Hugging Face's format, for `BertForSequenceClassification`.

    Args:
        directory: of the run; the model is in its folder `huggingface`.
        trained: `{"encoder", "head"}` as `evals.finetune` gives them.
        shape: of the encoder.
        vocabulary: its words.
        task: what it was trained on.
        length: tokens of an example in training.
        scale: of the numbers that were learned, which the written head undoes.

    Returns:
        What was written, in one sentence.
    """
    head = {name: np.asarray(value) * scale.deviation for name, value in trained["head"]["dense"].items()}
    head["bias"] = head["bias"] + scale.mean
    names = [words[0] for words in task.labels] or [task.label[0]]
    more = {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "single_label_classification" if task.labels else "regression",
        "classifier_dropout": None,
        "task_specific_params": {OURS: {"text": [*task.first, *task.second], "length": length}},
    }
    params = {"encoder": trained["encoder"], "classifier": {"dense": head}}
    return export.export(params, shape, vocabulary, directory, more)


def load(run: str) -> Finetuned:
    """The fine-tuned model of a run, or of a directory of transformers' `BertForSequenceClassification`.

    Raises:
        BadInputError: there is none, or its labels cannot be read.
    """
    params, shape, vocabulary = export.load_encoder(run)
    if "classifier" not in params:
        raise BadInputError(f"run={run} holds no classifier; give the --out of ssljax finetune.")
    config = _config(run)
    classes = params["classifier"]["dense"]["bias"].shape[0]
    try:
        names = config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(classes)}
        labels = tuple(str(names[str(number)]) for number in range(classes))
        ours = (config.get("task_specific_params") or {}).get(OURS, {})
        text, length = tuple(ours.get("text", ())), int(ours.get("length", min(shape.positions, 512)))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInputError(f"run={run}: id2label or task_specific_params of its config.json cannot be read.") from None
    regression = classes == 1 or config.get("problem_type") == "regression"
    return Finetuned(params, shape, vocabulary, labels, regression, text, min(length, shape.positions))


def _config(run: str) -> dict[str, Any]:
    from etils import epath

    directory = epath.Path(run) / export.EXPORTED
    return json.loads(((directory if directory.exists() else epath.Path(run)) / "config.json").read_text())


def predict(model: Finetuned, first: list[str], second: list[str] | None, *, batch_size: int = 64) -> np.ndarray:
    """The answers for new rows.

    Args:
        model: from `load`.
        first: N texts.
        second: N further ones for pairs.
        batch_size: rows at a time.

    Returns:
        float32[N, C] probabilities that sum to 1 in each row, or float32[N, 1] numbers.
    """
    rows = inputs(model.vocabulary, Examples(first, second, np.zeros(len(first), np.int32)), model.length)
    encoder, head = bert.bert(model.shape), bert.classifier(len(model.labels))
    params = {"encoder": model.params["encoder"], "head": model.params["classifier"]}
    with sharding.use_mesh(sharding.make_mesh()):
        found = outputs_of(encoder, head, params, rows, kind="classification", batch_size=batch_size)
    if model.regression:
        return found
    powers = np.exp(found - found.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
