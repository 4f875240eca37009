"""A vector for each line of a text, by a trained encoder."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from ssljax.evals.features import round_up
from ssljax.methods.bert import mean_of_tokens
from ssljax.models.bert import BertShape
from ssljax.text.reading import read_lines
from ssljax.text.task import Bert, build
from ssljax.text.vocabulary import Vocabulary, encode, pack, tokenizer
from ssljax.types import BadInputError, PyTree

BATCH = 32
SHORTEST = 3  # tokens: [CLS], one of the line, [SEP]

Pooling = Literal["mean", "cls"]


class Embedded(NamedTuple):
    """Vectors, and what of the text they do not see.

    Attributes:
        vectors: float32[lines, H].
        cut: how many lines were longer than the model or `max_length`, and cut at their end.
        unknown: share of the tokens that are [UNK].
    """

    vectors: np.ndarray
    cut: int
    unknown: float


def lines_of(path: str) -> list[str]:
    """The lines of a UTF-8 text file, plain or compressed, each of which is given a vector.

    Raises:
        BadInputError: there are none, or they cannot be read.
    """
    found = list(read_lines(path))
    if not found:
        raise BadInputError(f"{path} has no lines; give one sentence per line.")
    return found


def embed_lines(
    params: PyTree,
    shape: BertShape,
    vocabulary: Vocabulary,
    lines: Sequence[str],
    *,
    pooling: Pooling = "mean",
    normalise: bool = False,
    max_length: int | None = None,
) -> Embedded:
    """Embed each line by the last layer.

    Args:
        params: `{"encoder", ...}` as `text.export.load_encoder` gives them.
        shape: of the encoder.
        vocabulary: its words.
        lines: one or more.
        pooling: "mean" over the line's tokens, [CLS] and [SEP] included, or the vector of [CLS].
        normalise: scale each vector to length 1.
        max_length: tokens of a line, with [CLS] and [SEP]; None: as many as the model has positions.

    Raises:
        BadInputError: `max_length` is below 3 or above the model's positions.
    """
    most = shape.positions if max_length is None else max_length
    if not SHORTEST <= most <= shape.positions:
        raise BadInputError(
            f"max_length={max_length}: give {SHORTEST} to {shape.positions} tokens, the positions that the model has."
        )
    ids = encode(tokenizer(vocabulary), lines)
    vectors = _vectors(build(shape), params["encoder"], vocabulary, ids, pooling, most)
    if normalise:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unknown = sum(line.count(vocabulary.unk) for line in ids) / max(sum(map(len, ids)), 1)
    return Embedded(vectors, sum(len(line) > most - 2 for line in ids), unknown)


def _vectors(
    parts: Bert, encoder: PyTree, vocabulary: Vocabulary, ids: list[list[int]], pooling: Pooling, most: int
) -> np.ndarray:
    @jax.jit
    def pooled(encoder, tokens, segments, lengths):
        outputs, _ = parts.encoder.apply(encoder, {}, tokens, segments, lengths, train=False)
        return mean_of_tokens(outputs["tokens"], lengths) if pooling == "mean" else outputs["tokens"][:, 0]

    found = np.zeros((len(ids), parts.shape.hidden), np.float32)
    order = np.argsort([len(line) for line in ids], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = min(round_up(max(len(ids[i]) for i in rows) + 2, 32), most)
        batch = pack(vocabulary, [ids[i] for i in rows] + [[]] * (BATCH - len(rows)), None, longest)
        found[rows] = np.asarray(pooled(encoder, **batch), np.float32)[: len(rows)]
    return found
