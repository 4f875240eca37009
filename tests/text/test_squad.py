"""Windows of questions against a plain re-making of them, and the real questions where they are."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ssljax.text import squad, squad_answers
from ssljax.text.vocabulary import SPECIALS, Vocabulary, read_vocabulary
from ssljax.types import BadInputError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
PARTS = ["the", "cat", "##s", "sat", "on", "mat", "a", "(", ")", ".", ",", "1", "##8", "##9", "cafe", "ist", "##an"]
VOCABULARY = Vocabulary((*SPECIALS, *PARTS))
TEXTS = ["the", "Cats", "(cats)", "sat.", "mat,", "189", "Café", "\u00a0", " ", "the", "on", "a", "İstan", "x", "é"]


def made_of(rng, count):
    return " ".join(rng.choice(TEXTS, count).tolist())


def ask(context, answer, start, text="the mat", name="q"):
    return squad.Question(name, 0, text, context, (answer,), (start,))


@pytest.mark.parametrize("seed", range(10))
def test_windows_cover_the_context_and_hold_the_answer(seed):
    """Read the windows back: pieces in steps of the stride, the answer's tokens where the labels say."""
    rng = np.random.default_rng(seed)
    questions = []
    for number in range(4):
        context = made_of(rng, rng.integers(3, 50))
        start = int(rng.integers(0, len(context) - 1))
        stop = int(rng.integers(start + 1, min(start + 12, len(context)) + 1))
        questions.append(ask(context, context[start:stop], start, made_of(rng, rng.integers(1, 12)), str(number)))
    length, stride, most = int(rng.integers(14, 30)), int(rng.integers(1, 12)), int(rng.integers(2, 10))
    found = squad.windows(questions, VOCABULARY, length=length, stride=stride, max_query=most)
    tokens, segments, lengths, labels = (found.inputs[name] for name in ("tokens", "segments", "lengths", "label"))
    assert (np.diff(found.question) >= 0).all()
    assert tokens.shape == (len(found.question), length)
    for place, q in enumerate(questions):
        rows, offsets = np.flatnonzero(found.question == place), found.offsets[place]
        (query,) = {tuple(tokens[row, 1 : found.shift[row] - 1]) for row in rows}
        assert len(query) <= most
        room, count = length - len(query) - 3, len(offsets)
        whole = np.full(count, -1)
        for number, row in enumerate(rows):
            begin, piece = found.begin[row], tokens[row, found.shift[row] : lengths[row] - 1]
            assert begin == number * min(stride, room)
            assert len(piece) == min(room, count - begin)
            known = whole[begin : begin + len(piece)]
            assert ((known == piece) | (known == -1)).all()
            known[:] = piece
            ends = [0, found.shift[row] - 1, lengths[row] - 1]
            assert tokens[row, ends].tolist() == [2, 3, 3]
            assert not tokens[row, lengths[row] :].any()
            expected = [0] * found.shift[row] + [1] * (len(piece) + 1) + [0] * (length - lengths[row])
            assert segments[row].tolist() == expected
            assert not found.best[row, : found.shift[row]].any()
            assert not found.best[row, lengths[row] - 1 :].any()
            check_label(q, offsets, labels[row], found, row, begin, len(piece))
        assert -1 not in whole
        # no window before the last reaches the end
        assert all(found.begin[row] + room < count for row in rows[:-1])
        assert sum(found.best[row].sum() for row in rows) == count


def check_label(q, offsets, label, found, row, begin, count):
    start, stop = q.starts[0], q.starts[0] + len(q.answers[0])
    touched = [i for i, (a, b) in enumerate(offsets) if a < stop and b > start]
    assert found.placed[found.question[row]] == bool(touched)
    if touched and begin <= touched[0] and touched[-1] < begin + count:
        assert (label - found.shift[row] + begin).tolist() == [touched[0], touched[-1]]
    else:
        assert label.tolist() == [0, 0]


def test_the_window_with_the_most_context():
    """Counted by hand: twelve tokens, windows of five in steps of three."""
    questions = [ask("the cat sat on a mat ( the cat ) sat on", "cat", 4, "a")]
    found = squad.windows(questions, VOCABULARY, length=9, stride=3, max_query=1)
    assert found.begin.tolist() == [0, 3, 6, 9]
    assert [np.flatnonzero(row).tolist() for row in found.best] == [[3, 4, 5, 6], [4, 5, 6], [4, 5, 6], [4, 5]]


def test_offsets_point_into_the_text_as_written():
    text = "The Café (cats)  sat\u00a0on  1899 İstan."
    offsets = squad.windows([ask(text, "Café", 4)], VOCABULARY, length=40, stride=8, max_query=8).offsets[0]
    pieces = [text[a:b] for a, b in offsets]
    assert pieces == ["The", "Café", "(", "cat", "s", ")", "sat", "on", "1", "8", "9", "9", "İst", "an", "."]


@pytest.mark.parametrize(
    ("answer", "start", "tokens"),
    [("cats", 5, (2, 3)), ("cat", 5, (2, 2)), ("at", 6, (2, 2)), ("(cats)", 4, (1, 4)), ("(cats) ", 4, (1, 4))],
)
def test_the_answers_tokens_are_those_that_cover_it(answer, start, tokens):
    found = squad.windows([ask("The (cats) sat", answer, start)], VOCABULARY, length=20, stride=8, max_query=8)
    assert (found.inputs["label"][0] - found.shift[0]).tolist() == list(tokens)


def test_an_answer_that_is_not_there_has_no_place():
    questions = [ask("The cats", "cats", start) for start in (4, 3, 5, 99, -1)]
    found = squad.windows(questions, VOCABULARY, length=20, stride=8, max_query=8)
    # 3: "" + " cat" is not "cats"
    assert found.placed.tolist() == [True, False, False, False, False]
    assert found.inputs["label"][1:].tolist() == [[0, 0]] * 4


def test_a_context_without_tokens_has_no_window_and_an_empty_answer():
    questions = [ask(" \u200b", "x", 0, name="empty"), ask("the cat", "cat", 4)]
    found = squad.windows(questions, VOCABULARY, length=20, stride=8, max_query=8)
    assert found.question.tolist() == [1]
    scores = squad.scorer(found, questions)(np.zeros((1, 20, 2), np.float32))
    assert scores["f1"] <= 50


@pytest.mark.parametrize("options", [{"length": 11}, {"stride": 0}])
def test_no_room_is_refused(options):
    with pytest.raises(BadInputError, match="must exceed"):
        squad.windows([ask("a", "a", 0)], VOCABULARY, **({"length": 20, "stride": 8, "max_query": 8} | options))


def written(tmp_path, content, name="dev.json"):
    path = tmp_path / name
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def articles(count, answers=({"text": "cat", "answer_start": 4},)):
    qas = [{"id": f"{{}}-{i}", "question": "who", "answers": list(answers)} for i in range(2)]
    made = []
    for number in range(count):
        numbered = [qa | {"id": qa["id"].format(number)} for qa in qas]
        made.append({"title": "t", "paragraphs": [{"context": "the cat", "qas": numbered}]})
    return {"version": "1.1", "data": made}


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_files_and_articles(tmp_path, name):
    questions = squad.read_squad(written(tmp_path, articles(3), name))
    assert [q.id for q in questions] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert questions[0] == squad.Question("0-0", 0, "who", "the cat", ("cat",), (4,))
    train, held_out = squad.split_articles(questions, 1)
    assert [q.id for q in held_out] == ["2-0", "2-1"]
    assert train + held_out == questions
    for wrong in (0, 3):
        with pytest.raises(BadInputError, match="hold out 1 to 2"):
            squad.split_articles(questions, wrong)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (articles(1, ()), "question 0-0 has no answer; give a file of SQuAD 1.1"),
        ({"version": "1.1", "data": []}, "has no questions"),
        ({"version": "1.1"}, "not SQuAD's JSON .KeyError: 'data'."),
        ([1], "not SQuAD's JSON"),
        (b"{]", "not SQuAD's JSON"),
        (b'{"data": "\xff"}', "not UTF-8 at byte 10"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, content, words):
    path = written(tmp_path, content)
    with pytest.raises(BadInputError, match=words) as error:
        squad.read_squad(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match="No such file"):
        squad.read_squad(tmp_path / "none.json")
    (tmp_path / "not.json.gz").write_bytes(b"plain")
    with pytest.raises(BadInputError, match=r"not\.json\.gz: cannot read it"):
        squad.read_squad(tmp_path / "not.json.gz")


def align(predicted, whole_words):
    """The official alignment of joined tokens with the text they came from, by characters other than spaces."""
    import unicodedata

    flat, places = "", []
    for place, letter in enumerate(whole_words):
        for part in unicodedata.normalize("NFD", letter.lower()):
            if unicodedata.category(part) != "Mn" and not part.isspace():
                flat += part
                places.append(place)
    start = flat.find(predicted.replace(" ", ""))
    return whole_words[places[start] : places[start + len(predicted.replace(" ", "")) - 1] + 1]


@pytest.mark.skipif(not (SHARED / "squad_dev-v1.1.json.gz").exists(), reason="the shared data is not here")
def test_the_real_questions():
    vocabulary = read_vocabulary(SHARED / "bert_base_uncased_vocab.txt")
    questions = squad.read_squad(SHARED / "squad_dev-v1.1.json.gz")
    assert len(questions) == 10570
    train, held_out = squad.split_articles(questions, 10)
    assert len({q.article for q in train}) == 38
    some = held_out[::3]
    found = squad.windows(some, vocabulary)
    assert found.placed.all()
    outputs = np.zeros((*found.inputs["tokens"].shape, 2), np.float32)
    rows = np.arange(len(outputs))
    for side in (0, 1):
        outputs[rows, found.inputs["label"][:, side], side] = 1
    scores = squad.scorer(found, some)(outputs)
    # a model that is always right misses answers that begin or end inside a word piece, 12 of these 912
    assert scores["exact_match"] == pytest.approx(100 * 900 / 912)
    assert scores["f1"] > 98.6
    for place, q in enumerate(some[:300]):
        offsets = found.offsets[place]
        start = int(np.searchsorted(offsets[:, 1], q.starts[0], side="right"))
        stop = min(start + 5, len(offsets))
        ids = found.inputs["tokens"][found.question == place][0]
        first = found.shift[found.question == place][0]
        joined = " ".join(vocabulary.words[i] for i in ids[first + start : first + stop]).replace(" ##", "")
        if "[UNK]" in joined or stop > (ids[first:] != 0).sum() - 1 or joined.startswith("##"):
            continue
        text = q.context[offsets[start, 0] : offsets[stop - 1, 1]]
        assert squad_answers.normalize(align(joined, text)) == squad_answers.normalize(text)
