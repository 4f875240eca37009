"""The vocabulary and the tokenizer, held to Hugging Face's BertTokenizer."""

import importlib.util
import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssljax.text import vocabulary as words
from ssljax.text.vocabulary import SPECIALS, Vocabulary, encode, pack, tokenizer
from ssljax.types import BadInputError
from tests.oracles import expected, text_oracles

SHARED = Path(__file__).parents[3] / "shared" / "data"
BERT_WORDS, WIKIPEDIA = SHARED / "bert_base_uncased_vocab.txt", SHARED / "enwiki_train_100MB.txt.xz"


def synthetic_lines(seed=0, count=300):
    """Lines of words from a skewed distribution, so that some pieces are frequent."""
    rng = np.random.default_rng(seed)
    syllables = ["ka", "lo", "mi", "ren", "stu", "ei", "x"]
    known = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(200)]
    return [" ".join(known[int(200 * rng.random() ** 3)] for _ in range(12)) + "." for _ in range(count)]


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("specials", [True, False])
def test_ids_are_hugging_faces_on_nasty_lines(lower_case, specials):
    golden = expected("bert_tokenizer_ids")
    ids, counts = (golden[f"{part}_{lower_case}_{specials}"] for part in ("ids", "counts"))
    vocabulary = Vocabulary(tuple(text_oracles.WORDS), lower_case)
    ours = encode(tokenizer(vocabulary, specials), text_oracles.nasty_lines(1000, 0))
    theirs = [line.tolist() for line in np.split(ids, np.cumsum(counts)[:-1])]
    wrong = [number for number, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    assert wrong == []
    assert len(set(ids)) > 100  # the lines do reach most of the vocabulary


@pytest.mark.skipif(
    not BERT_WORDS.exists() or not importlib.util.find_spec("transformers"), reason="needs ../shared/data, transformers"
)
def test_ids_are_hugging_faces_with_berts_vocabulary():
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    with lzma.open(WIKIPEDIA) as file:
        text = file.read(4_000_000).decode(errors="ignore").split("\n")
    lines = [line for line in text if line.strip()]
    real = lines[:: len(lines) // 1000][:1000]
    nasty = text_oracles.nasty_lines(1000, 1)
    theirs = text_oracles.bert_tokenizer(BERT_WORDS, True, True)
    ours = encode(tokenizer(words.read_vocabulary(BERT_WORDS)), real + nasty)
    assert ours == [theirs(line, add_special_tokens=False)["input_ids"] for line in real + nasty]
    # the older tokenizer is another implementation, in Python, with another Unicode table: real text only
    legacy = BertTokenizerLegacy(str(BERT_WORDS))
    assert ours[:1000] == [legacy.convert_tokens_to_ids(legacy.tokenize(line)) for line in real]


@pytest.mark.skipif(not BERT_WORDS.exists(), reason="needs ../shared/data")
def test_berts_own_file():
    bert = words.read_vocabulary(BERT_WORDS)
    assert (len(bert), bert.pad, bert.unk, bert.cls, bert.sep, bert.mask) == (30522, 0, 100, 101, 102, 103)
    assert encode(tokenizer(bert), ["Unaffable café [MASK]"]) == [[14477, 20961, 3468, 7668, 103]]


def test_special_words_in_text_are_special_only_where_asked():
    vocabulary = Vocabulary((*SPECIALS, "[", "]", "mask", "a"))
    texts = ["a [MASK] a", "a[MASK]"]
    assert encode(tokenizer(vocabulary), texts) == [[8, 4, 8], [8, 4]]
    assert encode(tokenizer(vocabulary, specials=False), texts) == [[8, 5, 7, 6, 8], [8, 5, 7, 6]]


@pytest.mark.parametrize("length", [5, 8, 9, 16])
def test_packing_is_hugging_faces(length):
    golden = expected("bert_tokenizer_pairs")
    vocabulary = Vocabulary(tuple(text_oracles.WORDS))
    first, second = (encode(tokenizer(vocabulary), texts) for texts in text_oracles.pairs(0))
    for name, packed in (
        ("pair", pack(vocabulary, first, second, length)),
        ("single", pack(vocabulary, first, None, length)),
    ):
        for part, ours in packed.items():
            assert ours.dtype == np.int32
            np.testing.assert_array_equal(ours, golden[f"{name}_{part}_{length}"], err_msg=f"{name} {part}")


def test_packing_refuses_what_cannot_be():
    vocabulary = Vocabulary(SPECIALS)
    with pytest.raises(BadInputError, match=r"length=2 .* at least 5"):
        pack(vocabulary, [[1]], None, 2)
    with pytest.raises(BadInputError, match=r"1 first sentences but 2"):
        pack(vocabulary, [[1]], [[1], [1]], 8)


def test_what_a_vocabulary_knows():
    vocabulary = Vocabulary((*SPECIALS, "a", "##b", "#c"))
    assert (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask) == (0, 1, 2, 3, 4)
    assert vocabulary.continuation.tolist() == [False] * 6 + [True, False]
    assert vocabulary.special.tolist() == [True] * 5 + [False] * 3
    others = [
        Vocabulary(vocabulary.words, lower_case=False),
        Vocabulary(vocabulary.words, strip_accents=False),
        Vocabulary(vocabulary.words, lower_case=False, strip_accents=True),
        Vocabulary((*vocabulary.words[:-1], "#d")),
        Vocabulary((*vocabulary.words[:-2], "#c", "##b")),
    ]
    assert len({v.digest for v in (vocabulary, *others)}) == 6
    assert Vocabulary(vocabulary.words, strip_accents=True) == vocabulary
    assert Vocabulary((*SPECIALS, "a", "##b", "#c")) == vocabulary


@pytest.mark.parametrize("special", SPECIALS)
def test_every_special_word_must_be_there(special, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([word for word in SPECIALS if word != special] + ["a"]))
    with pytest.raises(BadInputError) as error:
        words.read_vocabulary(path)
    assert special in str(error.value)
    assert str(path) in str(error.value)


def test_files_that_are_no_vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    with pytest.raises(BadInputError, match="cannot read the vocabulary: No such file"):
        words.read_vocabulary(path)
    path.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(BadInputError, match="not UTF-8 at byte 6"):
        words.read_vocabulary(path)
    path.write_text("\n".join([*SPECIALS, "", "a"]))
    with pytest.raises(BadInputError, match="line 6 is empty"):
        words.read_vocabulary(path)
    for text, said in (("{", "neither"), ('{"model": 3}', "neither"), (tokenizer_json("BPE"), "'BPE' with 6 words")):
        path.write_text(text)
        with pytest.raises(BadInputError, match=said):
            words.read_vocabulary(path)
    path.write_text("\n".join([*SPECIALS, "a", "a"]))
    with pytest.raises(BadInputError, match="'a' twice"):
        words.read_vocabulary(path)


def tokenizer_json(kind):
    return json.dumps({"model": {"type": kind, "vocab": {word: i for i, word in enumerate((*SPECIALS, "a"))}}})


def test_a_file_with_a_byte_order_mark_and_hugging_faces_tokenizer(tmp_path):
    path, wanted = tmp_path / "vocab.txt", Vocabulary((*SPECIALS, "a"))
    path.write_text("\n".join(wanted.words), encoding="utf-8-sig")
    assert words.read_vocabulary(path) == wanted
    path.write_text(tokenizer_json("WordPiece"))
    assert words.read_vocabulary(path) == wanted


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_case_and_accents_are_hugging_faces(lower_case, strip_accents, tmp_path):
    transformers = pytest.importorskip("transformers")
    vocabulary = Vocabulary(
        (*SPECIALS, *"abuo\u00fc\u00d6UO", "##r", "##b", "##u", "##\u00fc"), lower_case, strip_accents
    )
    words.write_vocabulary(vocabulary, tmp_path / "vocab.txt")
    theirs = transformers.BertTokenizer(
        str(tmp_path / "vocab.txt"), do_lower_case=lower_case, strip_accents=strip_accents
    )
    lines = ["\u00dcber b\u00fcr \u00d6 o\u0308 U\u0308b", "abu \u00fcb"]
    wanted = [theirs(line, add_special_tokens=False)["input_ids"] for line in lines]
    assert encode(tokenizer(vocabulary), lines) == wanted


def test_a_file_is_read_as_it_was_written(tmp_path):
    # words that are line ends to Unicode, and Windows' line ends
    vocabulary = Vocabulary((*SPECIALS, "a", "\u2028", "\x85", "é"), lower_case=False)
    path = tmp_path / "vocab.txt"
    words.write_vocabulary(vocabulary, path)
    assert words.read_vocabulary(path, lower_case=False) == vocabulary
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert words.read_vocabulary(path, lower_case=False) == vocabulary


def test_learned_words_at_berts_places():
    lines = [f"word{number} " * 3 for number in range(2000)]
    vocabulary = words.train_vocabulary(iter(lines), 1200)
    assert len(vocabulary) == 1200
    assert (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask) == (0, 100, 101, 102, 103)
    assert [*vocabulary.words[1:3], vocabulary.words[99]] == ["[unused0]", "[unused1]", "[unused98]"]
    small = words.train_vocabulary(iter(lines), 100)
    assert small.words[:5] == SPECIALS
    assert len(small) == 100
    # a word of its own for what is frequent, and nothing of the text unknown
    assert "word" in small.ids
    assert small.unk not in encode(tokenizer(small), ["".join(lines)])[0]


def test_learning_gives_the_same_words_in_any_process():
    ours = words.train_vocabulary(iter(synthetic_lines()), 150).digest
    code = (
        "from tests.text.test_vocabulary import synthetic_lines, words;"
        "print(words.train_vocabulary(iter(synthetic_lines()), 150).digest)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [ours]
    assert words.train_vocabulary(iter(synthetic_lines()), 150).digest == ours


def test_learning_keeps_case_where_asked_and_needs_pieces_twice():
    lines = ["Éa éa Éa", "zebra"]
    lower, cased = (words.train_vocabulary(iter(lines), 100, lower_case) for lower_case in (True, False))
    assert "ea" in lower.ids
    assert "Éa" in cased.ids
    assert not any("eb" in word for word in lower.words)  # of the word that is there once
    assert len(lower) < 100


def test_learning_refuses_no_text_and_too_few_words():
    with pytest.raises(BadInputError, match="no words to learn"):
        words.train_vocabulary(iter(["", " \n"]), 100)
    with pytest.raises(BadInputError, match=r"size=10: letters and special words alone are 13;"):
        words.train_vocabulary(iter(["abcd", "dcba"]), 10)
    assert len(words.train_vocabulary(iter(["abcd", "dcba"]), 13)) == 13
