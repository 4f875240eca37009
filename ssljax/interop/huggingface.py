"""BERT in and out of Hugging Face's directories: config.json, the vocabulary, model.safetensors."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssljax.interop.huggingface_names import HEADS, from_huggingface, to_huggingface
from ssljax.interop.safetensors_file import read_safetensors, write_safetensors
from ssljax.models.bert_layers import BertShape
from ssljax.types import BadInputError, PyTree

# config.json's key -> the shape's field
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "max_position_embeddings": "positions",
    "type_vocab_size": "segments",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "eps",
    "initializer_range": "initial_std",
}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
ARCHITECTURES = {
    ("mlm", "nsp"): "BertForPreTraining",
    ("mlm",): "BertForMaskedLM",
    ("nsp",): "BertForNextSentencePrediction",
    ("classifier",): "BertForSequenceClassification",
    ("span",): "BertForQuestionAnswering",
    (): "BertModel",
}


def save_pretrained(
    directory: str | os.PathLike,
    params: PyTree,
    shape: BertShape,
    vocabulary: Sequence[str],
    lower_case: bool,
    strip_accents: bool | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a BERT for `transformers`: `BertForPreTraining.from_pretrained(directory)` gives the same logits.

    The directory appears whole or not at all. Call it from a single process.

    Args:
        directory: a new one.
        params: `{"encoder"}`, alone or with `"mlm"` and `"nsp"`, or with `"classifier"` or `"span"`: the parameters of
            `ssljax.models.bert`.
        shape: shape of the encoder.
        vocabulary: its words in the order of their ids.
        lower_case: whether the tokenizer lowers case.
        strip_accents: whether it strips accents; None: where it lowers case.
        more: further entries of config.json, such as a classifier's id2label.

    Raises:
        BadInputError: the directory exists or its parent does not, or the parameters or the vocabulary do not fit
            `shape`.
    """
    directory = Path(directory)
    if directory.exists():
        raise BadInputError(f"{directory} exists: it is not overwritten; choose another name.")
    if not directory.absolute().parent.is_dir():
        raise BadInputError(f"{directory}: the folder {directory.parent} does not exist; make it first.")
    if len(vocabulary) > shape.vocab_size:
        raise BadInputError(f"the vocabulary has {len(vocabulary)} words, the model vocab_size={shape.vocab_size}.")
    state = to_huggingface(params, shape)
    part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        _write(
            part,
            state,
            _config(params, shape) | dict(more or {}),
            vocabulary,
            _tokenizer_config(shape, lower_case, strip_accents),
        )
        os.rename(part, directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_pretrained(directory: str | os.PathLike) -> tuple[PyTree, BertShape]:
    """Read a BERT that `transformers` or `save_pretrained` wrote.

    Args:
        directory: with config.json and model.safetensors.

    Returns:
        `(params, shape)`; `params` has `"encoder"`, and the heads of `save_pretrained` that the checkpoint has.
        Other heads are ignored. A checkpoint without pooler gets a freshly drawn one, with a warning.

    Raises:
        BadInputError: a file is missing, the config is not one of a BERT, or an array is missing, unexpected or of
            another shape; the first one is named.
    """
    directory = Path(directory)
    shape = read_shape(directory / "config.json")
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise BadInputError(f"{weights}: there is no such file; save the model by transformers' save_pretrained.")
    try:
        return from_huggingface(read_safetensors(weights), shape), shape
    except BadInputError as error:
        raise BadInputError(str(error) if str(weights) in str(error) else f"{weights}: {error}") from error


def _config(params: PyTree, shape: BertShape) -> dict[str, Any]:
    return {
        "architectures": [ARCHITECTURES[tuple(name for name in HEADS if name in params)]],
        "model_type": "bert",
        "hidden_act": "gelu_new" if shape.activation == "gelu_tanh" else "gelu",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    } | {theirs: getattr(shape, ours) for theirs, ours in FIELDS.items()}


def _tokenizer_config(shape: BertShape, lower_case: bool, strip_accents: bool | None) -> dict[str, Any]:
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    return special | {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lower_case,
        "model_max_length": shape.positions,
        "strip_accents": strip_accents,
        "tokenize_chinese_chars": True,
    }


def read_shape(path: Path) -> BertShape:
    """What a config.json says of a BERT.

    Raises:
        BadInputError: there is no such file, or it is not the config of a BERT.
    """
    if not path.is_file():
        raise BadInputError(f"{path}: there is no such file; give a directory of transformers' save_pretrained.")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError):
        raise BadInputError(f"{path} is not JSON.") from None
    if not isinstance(config, dict):
        raise BadInputError(f"{path} holds no JSON object; write it again.")
    if config.get("model_type") != "bert":
        raise BadInputError(f"{path} describes a model of type {config.get('model_type')!r}; give one of type 'bert'.")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise BadInputError(f"{path}: position_embedding_type={config['position_embedding_type']!r}, not 'absolute'.")
    activation = config.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise BadInputError(f"{path}: hidden_act={activation!r} is unknown; {', '.join(ACTIVATIONS)} fit.")
    # transformers' own defaults are base's, as the shape's are
    fields = {ours: config[theirs] for theirs, ours in FIELDS.items() if theirs in config}
    shape = BertShape(activation=ACTIVATIONS[activation], **fields)
    _check_numbers(path, shape)
    return shape


def _check_numbers(path: Path, shape: BertShape) -> None:
    """Sizes are whole numbers below 2^24, and the others fractions."""
    for theirs, ours in FIELDS.items():
        value, whole = getattr(shape, ours), isinstance(getattr(BertShape(), ours), int)
        fits = type(value) is int and 0 < value < 1 << 24 if whole else type(value) in (int, float) and 0 <= value < 1
        if not fits:
            wanted = "a whole number from 1 to 16777215" if whole else "a number from 0 to below 1"
            raise BadInputError(f"{path}: {theirs}={repr(value)[:40]} must be {wanted}.")
    if shape.hidden % shape.heads:
        raise BadInputError(f"{path}: num_attention_heads={shape.heads} does not divide hidden_size={shape.hidden}.")


def _write(directory: Path, state, config, vocabulary: Sequence[str], tokenizer) -> None:
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2, sort_keys=True) + "\n")
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")
    write_safetensors(directory / "model.safetensors", state, {})
