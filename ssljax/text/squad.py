"""SQuAD 1.1: questions from the JSON file, as overlapping windows of tokens with the answer's place in each."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssljax.text.squad_answers import evaluate, n_best
from ssljax.text.vocabulary import Vocabulary, encode, tokenizer
from ssljax.types import BadInputError


class Question(NamedTuple):
    """One question.

    Attributes:
        id: the file's.
        article: the number of its article, from 0.
        question: text.
        context: the paragraph, in which every answer is.
        answers: texts.
        starts: the character of the context at which each begins.
    """

    id: str
    article: int
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


class Windows(NamedTuple):
    """Questions cut to a model's length.

    Attributes:
        inputs: tokens, segments int32[W, L], lengths int32[W]; label int32[W, 2], the first and last token of the
            first answer, both 0 where it is not wholly in the window or nowhere in the context.
        question: int32[W], the place of its question.
        begin: int32[W], the token of the context at which the window begins.
        shift: int32[W], the place of that token in the row.
        best: bool[W, L], no other window of the question has more context around this token.
        offsets: for each question int64[T, 2], the characters of the context that each of its tokens covers.
        placed: bool[number of questions], the first answer is where the file says.
    """

    inputs: dict[str, np.ndarray]
    question: np.ndarray
    begin: np.ndarray
    shift: np.ndarray
    best: np.ndarray
    offsets: list[np.ndarray]
    placed: np.ndarray


def read_squad(path: str | Path) -> list[Question]:
    """The questions of a SQuAD 1.1 file, .json or .json.gz, in order.

    Raises:
        BadInputError: no such file, not UTF-8, not SQuAD's JSON, or a question without an answer (SQuAD 2.0).
    """
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if str(path).endswith(".gz") else raw).decode()
        articles = json.loads(text)["data"]
        found = [
            _question(number, paragraph["context"], qa)
            for number, article in enumerate(articles)
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except (OSError, EOFError) as error:
        raise BadInputError(f"{path}: cannot read it: {getattr(error, 'strerror', None) or error}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{path} is not SQuAD's JSON ({type(error).__name__}: {error}); give a SQuAD 1.1 file."
        ) from None
    for question in found:
        if not question.answers:
            raise BadInputError(f"{path}: question {question.id} has no answer; give a file of SQuAD 1.1, not 2.0.")
    if not found:
        raise BadInputError(f"{path} has no questions; give a file with at least one.")
    return found


def split_articles(questions: Sequence[Question], held_out: int) -> tuple[list[Question], list[Question]]:
    """All but the last `held_out` articles' questions, and those of the last.

    Raises:
        BadInputError: one of the two parts would be empty.
    """
    articles = questions[-1].article + 1
    if not 1 <= held_out < articles:
        raise BadInputError(f"held_out={held_out}: the file has {articles} articles; hold out 1 to {articles - 1}.")
    first = articles - held_out
    return [q for q in questions if q.article < first], [q for q in questions if q.article >= first]


def windows(
    questions: Sequence[Question],
    vocabulary: Vocabulary,
    *,
    length: int = 384,
    stride: int = 128,
    max_query: int = 64,
) -> Windows:
    """[CLS] question [SEP] piece of the context [SEP], in windows that cover the context.

    Args:
        questions: N of them.
        vocabulary: vocabulary of the encoder.
        length: L, in tokens.
        stride: tokens between the begins of neighbouring windows.
        max_query: maximum number of tokens of a question; longer ones are truncated.

    Returns:
        W windows, at least one for each question with a context that has tokens, in the questions' order.

    Raises:
        BadInputError: no room for the context, or a stride below 1.

    Reference: arXiv 1810.04805, section 4.2; google-research/bert `run_squad.py`, `convert_examples_to_features`.

    Differs from the official code: an answer's tokens are those that cover its characters. The official code takes
        the whole words around it, or the first tokens in these that read as the answer's.
    """
    if length < max_query + 4 or stride < 1:
        raise BadInputError(
            f"length={length}, max_query={max_query}, stride={stride}: the length must exceed max_query by 4 or "
            "more, and the stride must be at least 1."
        )
    words = tokenizer(vocabulary, specials=False)
    queries = [ids[:max_query] for ids in encode(words, [question.question for question in questions])]
    contexts = list(dict.fromkeys(question.context for question in questions))
    encoded = words.encode_batch(contexts, add_special_tokens=False)
    ids = {context: one.ids for context, one in zip(contexts, encoded, strict=True)}
    offsets = {
        context: np.array(one.offsets, np.int64).reshape(-1, 2) for context, one in zip(contexts, encoded, strict=True)
    }
    covers = [offsets[question.context] for question in questions]
    spans = [_token_span(question, cover) for question, cover in zip(questions, covers, strict=True)]
    rows = []
    for place, (question, query, span) in enumerate(zip(questions, queries, spans, strict=True)):
        rows += _rows(place, ids[question.context], query, span, length, stride)
    return _stack(rows, vocabulary, length, covers, np.array([span is not None for span in spans]))


def scorer(
    windows: Windows, questions: Sequence[Question], *, n: int = 20, max_tokens: int = 30
) -> Callable[[np.ndarray], dict[str, float]]:
    """SQuAD's figures as a function of the outputs [W, L, 2], as `finetune` calls it."""

    def score(outputs):
        found = n_best(windows, questions, outputs, n=n, max_tokens=max_tokens)
        return evaluate({name: answers[0].text for name, answers in found.items()}, questions)

    return score


class _Row(NamedTuple):
    question: int
    query: list[int]
    piece: list[int]
    begin: int
    best: np.ndarray
    label: tuple[int, int]


def _question(article: int, context: str, qa: dict) -> Question:
    answers = tuple(answer["text"] for answer in qa["answers"])
    starts = tuple(int(answer["answer_start"]) for answer in qa["answers"])
    return Question(qa["id"], article, qa["question"], context, answers, starts)


def _token_span(question: Question, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the first answer; None if it is not where the file says."""
    start, answer = question.starts[0], question.answers[0]
    stop = start + len(answer)
    if start < 0 or question.context[start:stop].split() != answer.split():
        return None
    covering = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < stop))
    return (int(covering[0]), int(covering[-1])) if len(covering) else None


def _rows(place: int, ids: list[int], query: list[int], span, length: int, stride: int) -> list[_Row]:
    room = length - len(query) - 3
    begins = [0] if ids else []
    while begins and begins[-1] + room < len(ids):
        begins.append(begins[-1] + min(room, stride))
    stops = [min(begin + room, len(ids)) for begin in begins]
    best = _most_context(np.array(begins), np.array(stops), len(ids))
    rows = []
    for window, (begin, stop) in enumerate(zip(begins, stops, strict=True)):
        label = (0, 0)
        if span is not None and span[0] >= begin and span[1] < stop:
            shift = len(query) + 2 - begin
            label = (span[0] + shift, span[1] + shift)
        rows.append(_Row(place, query, ids[begin:stop], begin, best[begin:stop] == window, label))
    return rows


def _most_context(begins: np.ndarray, stops: np.ndarray, tokens: int) -> np.ndarray:
    """int[tokens]: the window with the most context on the poorer side of each token, a longer one before a shorter."""
    if not len(begins):
        return np.zeros(0, np.int64)
    token, begins, stops = np.arange(tokens)[None], begins[:, None], stops[:, None]
    context = np.minimum(token - begins, stops - 1 - token)
    return np.where(context < 0, -1.0, context + 0.01 * (stops - begins)).argmax(0)


def _stack(rows: list[_Row], vocabulary: Vocabulary, length: int, offsets, placed) -> Windows:
    tokens = np.full((len(rows), length), vocabulary.pad, np.int32)
    segments, best = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
    lengths, shift = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
    for number, row in enumerate(rows):
        line = [vocabulary.cls, *row.query, vocabulary.sep, *row.piece, vocabulary.sep]
        tokens[number, : len(line)], lengths[number], shift[number] = line, len(line), len(row.query) + 2
        segments[number, shift[number] : len(line)] = 1
        best[number, shift[number] : len(line) - 1] = row.best
    label = np.array([row.label for row in rows], np.int32).reshape(-1, 2)
    inputs = {"tokens": tokens, "segments": segments, "lengths": lengths, "label": label}
    question, begin = (np.array([row[column] for row in rows], np.int32) for column in (0, 3))
    return Windows(inputs, question, begin, shift, best, offsets, placed)
