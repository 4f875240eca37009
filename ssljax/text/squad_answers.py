"""SQuAD 1.1's score of answers as text, and the best answers as text from a model's start and end scores."""

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ssljax.types import BadInputError

if TYPE_CHECKING:
    from ssljax.text.squad import Question, Windows

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


class Answer(NamedTuple):
    """One of the n best.

    Attributes:
        text: a piece of the context, verbatim.
        probability: softmax over the n best.
        score: score of the start plus score of the end.
    """

    text: str
    probability: float
    score: float


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation, then without English articles, single spaces between words.

    >>> normalize("The  U.S.'s (an) answer")
    'uss answer'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """100 if both are the same once normalised, else 0."""
    return 100.0 * (normalize(prediction) == normalize(answer))


def f1(prediction: str, answer: str) -> float:
    """The F1 of the two bags of words once normalised, in per cent; 0 where both have none.

    >>> f1("the big cat", "a cat")
    66.66666666666667
    """
    predicted, true = normalize(prediction).split(), normalize(answer).split()
    same = sum((collections.Counter(predicted) & collections.Counter(true)).values())
    return 200 * same / max(len(predicted) + len(true), 1)


def evaluate(predictions: Mapping[str, str], questions: "Sequence[Question]") -> dict[str, float]:
    """SQuAD 1.1's two figures: the mean over all questions of the best score over a question's answers.

    Args:
        predictions: text by question id; a question without one scores 0.
        questions: with one answer or more each.

    Returns:
        `{"f1": per cent, "exact_match": per cent}`.

    Raises:
        BadInputError: there are no questions.

    Reference: arXiv 1606.05250, section 6.1; the SQuAD project's `evaluate-v1.1.py`.
    """
    if not questions:
        raise BadInputError("questions: there are none to score; give at least one.")
    total = {"f1": 0.0, "exact_match": 0.0}
    for question in questions:
        if question.id in predictions:
            given = predictions[question.id]
            total["f1"] += max(f1(given, answer) for answer in question.answers)
            total["exact_match"] += max(exact_match(given, answer) for answer in question.answers)
    return {name: value / len(questions) for name, value in total.items()}


def n_best(
    windows: "Windows", questions: "Sequence[Question]", outputs: np.ndarray, *, n: int = 20, max_tokens: int = 30
) -> dict[str, list[Answer]]:
    """The n best answers to every question over all of its windows.

    A span counts where both ends are among the n highest of their window, it lies in the context, it is at most
    `max_tokens` long, and no other window of the question has more context around its start.

    Args:
        windows: windows of the questions.
        questions: those that the windows were made of.
        outputs: float32[W, L, 2], scores of start and end.
        n: how many starts and ends of a window are tried, and how many answers are kept.
        max_tokens: the longest answer.

    Returns:
        Question id -> answers of different text, the best first; a single empty text where no span counts.

    Raises:
        BadInputError: n or max_tokens below 1, or outputs of another shape.

    Reference: google-research/bert `run_squad.py`, `write_predictions`.

    Differs from the official code: an answer is the piece of the context that the tokens' offsets mark, where the
        official one aligns the joined tokens with whole words and falls back to those.
    """
    if n < 1 or max_tokens < 1:
        raise BadInputError(f"n={n}, max_tokens={max_tokens}: give at least 1 of each.")
    if outputs.shape != (*windows.inputs["tokens"].shape, 2):
        raise BadInputError(f"outputs {outputs.shape} for windows {windows.inputs['tokens'].shape}; give [W, L, 2].")
    spans: list[list[tuple[float, int, int]]] = [[] for _ in questions]
    for window, question in enumerate(windows.question):
        spans[question] += _spans(windows, window, outputs[window].astype(np.float64), n, max_tokens)
    return {
        question.id: _texts(question.context, windows.offsets[place], spans[place], n)
        for place, question in enumerate(questions)
    }


def _spans(windows: "Windows", window: int, scores: np.ndarray, n: int, longest: int) -> list[tuple[float, int, int]]:
    """`(score, first, last token of the context)` of one window's spans, unsorted."""
    # stable, so that equal scores keep the order of their places, as in the official code
    starts, ends = (np.argsort(-scores[:, side], kind="stable")[:n] for side in (0, 1))
    first, stop = windows.shift[window], windows.inputs["lengths"][window] - 1
    good_start = (starts >= first) & (starts < stop) & windows.best[window, starts]
    good_end = (ends >= first) & (ends < stop)
    length = ends[None] - starts[:, None] + 1
    good = good_start[:, None] & good_end[None] & (length >= 1) & (length <= longest)
    rows, columns = np.nonzero(good)
    moved = windows.begin[window] - first
    sums = scores[starts[rows], 0] + scores[ends[columns], 1]
    return list(zip(sums.tolist(), (starts[rows] + moved).tolist(), (ends[columns] + moved).tolist(), strict=True))


def _texts(context: str, offsets: np.ndarray, spans: list[tuple[float, int, int]], n: int) -> list[Answer]:
    found: dict[str, float] = {}
    for score, start, end in sorted(spans, key=lambda span: -span[0]):
        found.setdefault(context[offsets[start, 0] : offsets[end, 1]], score)
        if len(found) == n:
            break
    if not found:
        return [Answer("", 1.0, 0.0)]
    scores = np.array(list(found.values()))
    shares = np.exp(scores - scores[0])
    shares /= shares.sum()
    return [Answer(text, float(p), score) for (text, score), p in zip(found.items(), shares, strict=True)]
