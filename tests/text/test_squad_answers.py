"""SQuAD's scores against torchmetrics, and the n best answers against plain loops over every span."""

import numpy as np
import pytest

from ssljax.text import squad, squad_answers
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError
from tests.oracles import expected, squad_oracles

WORDS = [f"w{i}" for i in range(40)]
VOCABULARY = Vocabulary((*SPECIALS, *WORDS, ".", "?"))


def question(name="q", context="w1 w2 w3.", answers=("w2",), text="w5 w6 ?", article=0):
    starts = tuple(context.index(answer) if answer in context else 0 for answer in answers)
    return squad.Question(name, article, text, context, tuple(answers), starts)


def test_scores_against_torchmetrics():
    wanted = expected("squad_scores")["scores"]
    pairs = squad_oracles.squad_pairs()
    ours = np.array([[squad_answers.exact_match(*pair), squad_answers.f1(*pair)] for pair in pairs])
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    assert 10 < (wanted[:, 1] == 100).sum() < 100
    assert (wanted[:, 1] == 0).any()


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [("", "", 100, 0), ("the", "a", 100, 0), ("!", "", 100, 0), ("", "cat", 0, 0), ("the", "cat", 0, 0)],
)
def test_answers_without_words_match_but_share_none(prediction, answer, exact, f1):
    assert squad_answers.exact_match(prediction, answer) == exact
    assert squad_answers.f1(prediction, answer) == f1


def test_the_best_of_the_answers_over_all_questions():
    questions = [question("1", answers=("w1", "w1 w2")), question("2", answers=("w3",)), question("3")]
    found = squad_answers.evaluate({"1": "the w1 w2 .", "2": "w1 w3", "other": "w2"}, questions)
    assert found == {"f1": pytest.approx((100 + 200 / 3 + 0) / 3), "exact_match": pytest.approx(100 / 3)}
    with pytest.raises(BadInputError, match="there are none"):
        squad_answers.evaluate({}, [])


def slow_n_best(questions, outputs, *, length, stride, max_query, n, longest):
    """Every window, start and end in plain loops; contexts are of words of which each is one token."""
    rows = iter(outputs)
    answers = {}
    for q in questions:
        words = q.context.split(" ")
        asked = min(len(q.question.split(" ")), max_query)
        room = length - asked - 3
        spans, begin = [], 0
        while True:
            count = min(room, len(words) - begin)
            spans.append((begin, count))
            if begin + count == len(words):
                break
            begin += min(count, stride)
        candidates = []
        for number, (begin, count) in enumerate(spans):
            scores = [[float(x) for x in column] for column in zip(*next(rows), strict=True)]
            starts, ends = ([i for _, i in sorted((-x, i) for i, x in enumerate(column))][:n] for column in scores)
            for start in starts:
                for end in ends:
                    first, last = start - asked - 2 + begin, end - asked - 2 + begin
                    inside = begin <= first <= last < begin + count and last - first < longest
                    if not inside:
                        continue
                    context = [
                        min(first - b, b + c - 1 - first) + 0.01 * c if b <= first < b + c else -9 for b, c in spans
                    ]
                    if context.index(max(context)) == number:
                        candidates.append((scores[0][start] + scores[1][end], " ".join(words[first : last + 1])))
        best = {}
        for score, text in sorted(candidates, key=lambda pair: -pair[0]):
            if text not in best and len(best) < n:
                best[text] = score
        total = sum(np.exp(list(best.values())))
        answers[q.id] = [(text, score, np.exp(score) / total) for text, score in best.items()] or [("", 0.0, 1.0)]
    return answers


@pytest.mark.parametrize("seed", range(8))
def test_n_best_against_plain_loops(seed):
    rng = np.random.default_rng(seed)
    questions = []
    for number in range(5):
        words, asked = rng.choice(WORDS, rng.integers(1, 50)), rng.choice(WORDS, rng.integers(1, 9))
        questions.append(question(str(number), " ".join(words), (str(words[0]),), " ".join(asked)))
    size = {"length": 16, "stride": int(rng.integers(1, 12)), "max_query": int(rng.integers(3, 7))}
    windows = squad.windows(questions, VOCABULARY, **size)
    outputs = rng.normal(size=(*windows.inputs["tokens"].shape, 2)).astype(np.float32)
    if seed % 2:
        outputs = outputs.round()  # many ties
    n, longest = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    found = squad_answers.n_best(windows, questions, outputs, n=n, max_tokens=longest)
    wanted = slow_n_best(questions, outputs, n=n, longest=longest, **size)
    assert found.keys() == wanted.keys()
    for name, answers in wanted.items():
        assert [answer.text for answer in found[name]] == [text for text, _, _ in answers]
        np.testing.assert_allclose([answer.score for answer in found[name]], [s for _, s, _ in answers], rtol=1e-6)
        np.testing.assert_allclose([answer.probability for answer in found[name]], [p for *_, p in answers], rtol=1e-6)


def test_a_question_without_any_span_gets_an_empty_answer():
    windows = squad.windows([question()], VOCABULARY, length=12, stride=4, max_query=4)
    outputs = np.zeros((1, 12, 2), np.float32)
    outputs[0, 0] = 9  # [CLS]
    assert squad_answers.n_best(windows, [question()], outputs, n=1)["q"] == [("", 1.0, 0.0)]
    for options in ({"n": 0}, {"max_tokens": 0}):
        with pytest.raises(BadInputError, match="at least 1"):
            squad_answers.n_best(windows, [question()], outputs, **options)
    with pytest.raises(BadInputError, match="give \\[W, L, 2\\]"):
        squad_answers.n_best(windows, [question()], outputs[:, :5])
