"""The trained parts of a text run in Hugging Face's format: written to the run's directory, and read from it."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssljax.interop import huggingface
from ssljax.models.bert import BertShape
from ssljax.text.vocabulary import Vocabulary, read_vocabulary
from ssljax.train import buckets
from ssljax.types import BadInputError, PyTree

EXPORTED = "huggingface"  # the folder of a run that holds its encoder
LAST = "config.json"  # of its files the one that is written last


def load_encoder(run: str) -> tuple[PyTree, BertShape, Vocabulary]:
    """The trained parts of a finished run, or of a directory in Hugging Face's format.

    Returns:
        `(params, shape, vocabulary)`; `params` has "encoder" and the heads that are there: "mlm" and "nsp" of
        pre-training, "classifier" or "span" of fine-tuning.

    Raises:
        BadInputError: the directory holds neither.
    """
    from etils import epath

    buckets.check_reachable(run, "run")
    for directory in (epath.Path(run) / EXPORTED, epath.Path(run)):
        if (directory / "model.safetensors").exists():
            with buckets.local_copy(directory) as here:
                params, shape = huggingface.load_pretrained(here)
                return params, shape, _words_of(here)
    raise BadInputError(
        f"{run} holds no trained encoder; give the --workdir of a finished text run or a directory with "
        "config.json, vocab.txt and model.safetensors."
    )


def _words_of(directory: Path) -> Vocabulary:
    path = directory / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        case = settings.get("do_lower_case", True), settings.get("strip_accents")
    except (ValueError, AttributeError):
        raise BadInputError(f"{path} is damaged or not a tokenizer's settings; write it again or remove it.") from None
    if not isinstance(case[0], bool) or not isinstance(case[1], bool | None):
        raise BadInputError(f"{path}: do_lower_case={case[0]!r} and strip_accents={case[1]!r} must be true or false.")
    return read_vocabulary(directory / "vocab.txt", *case)


def export(
    params: PyTree,
    shape: BertShape,
    vocabulary: Vocabulary,
    directory: str,
    more: Mapping[str, Any] | None = None,
) -> str:
    """Write the encoder and its heads in Hugging Face's format to `directory/huggingface`, unless they exist.

    `more` are further entries of config.json.

    Returns:
        What was written, in one sentence.
    """
    from etils import epath

    target = epath.Path(directory) / EXPORTED
    written_to = f"The encoder and its heads are in {directory}/{EXPORTED}, in the format of Hugging Face."
    if (target / LAST).exists():  # of this very run, stopped later on
        return written_to
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / EXPORTED
        case = (vocabulary.lower_case, vocabulary.strip_accents)
        huggingface.save_pretrained(written, params, shape, vocabulary.words, *case, more)
        if buckets.is_local(target):
            partial = epath.Path(directory) / f"{EXPORTED}.partial"
            buckets.copy_tree(epath.Path(written), partial)
            partial.rename(target)
        else:
            for path in sorted(epath.Path(written).iterdir(), key=lambda path: path.name == LAST):
                path.copy(target / path.name, overwrite=True)
    return written_to
