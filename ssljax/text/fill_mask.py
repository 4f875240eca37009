"""Fill the [MASK]s of a sentence with the predictions of a masked language model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ssljax.text.vocabulary import Vocabulary, encode, pack, tokenizer
from ssljax.types import BadInputError

# (tokens [1, L], segments [1, L], lengths [1], positions [1, P]) -> logits [1, P, V]
Predict = Callable[..., np.ndarray]


class Filled(NamedTuple):
    """The predictions for one [MASK], likeliest first."""

    words: tuple[str, ...]
    probabilities: tuple[float, ...]


def fill_mask(predict: Predict, vocabulary: Vocabulary, sentence: str, *, longest: int, top: int = 5) -> list[Filled]:
    """The likeliest words at each [MASK] of a sentence.

    Args:
        predict: tokens and segments int32[1, L], lengths int32[1], positions int32[1, P] -> logits [1, P, V].
        vocabulary: the model's.
        sentence: with one [MASK] or more.
        longest: L at most, in tokens.
        top: number of words for each.

    Returns:
        One `Filled` for each [MASK], in order.

    Raises:
        BadInputError: the sentence has no [MASK], or is too long for the model.
    """
    (ids,) = encode(tokenizer(vocabulary), [sentence])
    if vocabulary.mask not in ids:
        raise BadInputError(f"{sentence!r} has no [MASK]; put [MASK] where a word is to be filled in.")
    if len(ids) + 2 > longest:
        raise BadInputError(f"The sentence has {len(ids)} tokens and the model reads {longest - 2}; shorten it.")
    # a few lengths only, so that few shapes are compiled
    batch = pack(vocabulary, [ids], None, min(longest, -(-(len(ids) + 2) // 32) * 32))
    (positions,) = np.nonzero(batch["tokens"][0] == vocabulary.mask)
    logits = np.asarray(predict(**batch, positions=positions[None].astype(np.int32)), np.float64)[0]
    logits = logits[:, : len(vocabulary)]
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    likely /= likely.sum(-1, keepdims=True)
    order = np.argsort(-likely, axis=-1, kind="stable")[:, :top]
    return [
        Filled(tuple(vocabulary.words[i] for i in best), tuple(float(row[i]) for i in best))
        for row, best in zip(likely, order.tolist(), strict=True)
    ]


def in_words(sentence: str, filled: list[Filled]) -> str:
    """The sentence with the likeliest words in place of its [MASK]s.

    >>> in_words("Paris is the [MASK] of [MASK].", [Filled(("capital",), (0.9,)), Filled(("france",), (0.8,))])
    'Paris is the capital of france.'
    """
    for words, _ in filled:
        sentence = sentence.replace("[MASK]", words[0], 1)
    return sentence
