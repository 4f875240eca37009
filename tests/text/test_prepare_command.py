"""Preparing a corpus: bad input, the command line."""

import gzip
import json
import lzma
import re
import sys

import numpy as np
import pytest

from experiments import bert_prepare
from ssljax.text.corpus import open_corpus
from ssljax.text.prepare import prepare
from ssljax.text.vocabulary import SPECIALS, Vocabulary, read_vocabulary, write_vocabulary
from ssljax.types import BadInputError
from tests.text.texts import VOCABULARY, text_of, written


def refused(tmp_path, inputs, sentence, out=None):
    with pytest.raises(BadInputError) as error:
        prepare(inputs, VOCABULARY, out or tmp_path / "out", block_bytes=50)
    assert re.search(sentence, str(error.value)), str(error.value)
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    raw = text_of(40).encode()
    place = raw.index("é".encode(), 700)
    broken = raw[:place] + b"\xe9" + raw[place + 2 :]
    where = rf"not UTF-8 at byte {place} of"
    refused(tmp_path, [written(tmp_path, broken)], where + " the file")
    refused(tmp_path, [written(tmp_path, gzip.compress(broken), "text.gz")], where + " its text, decompressed")
    refused(tmp_path, [written(tmp_path, "a".encode("utf-16"), "utf16.txt")], "utf16.txt is not UTF-8 at byte 0")


def test_input_that_holds_no_corpus(tmp_path):
    one = written(tmp_path, "a.\nb.\n", "one.txt")
    refused(tmp_path, [written(tmp_path, "")], "no text, only empty lines")
    refused(tmp_path, [written(tmp_path, "\n \n\0\n")], "no text, only empty lines")
    refused(tmp_path, [one], "one document")
    refused(tmp_path, [tmp_path / "missing.txt"], r"missing\.txt is not a file")
    refused(tmp_path, [], "no input files")
    raw = lzma.compress(text_of(100).encode())
    refused(tmp_path, [written(tmp_path, raw[: len(raw) // 2], "short.xz")], r"short\.xz is damaged or cut short")
    for ending in ("gz", "bz2", "zst"):
        path = written(tmp_path, b"no archive", f"text.{ending}")
        refused(tmp_path, [path], rf"text\.{ending} is damaged or cut short")
    (tmp_path / "taken").mkdir()
    written(tmp_path / "taken", "x")
    refused(tmp_path, [one], "taken exists already", out=tmp_path / "taken")


def command_line(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bert_prepare", *map(str, arguments)])
    bert_prepare.main()


def test_the_command(tmp_path, monkeypatch, capsys):
    paths = [written(tmp_path, text_of(30, seed), f"{seed}.txt") for seed in range(2)]
    vocab, out = tmp_path / "vocab.txt", tmp_path / "out"
    write_vocabulary(VOCABULARY, vocab)
    command_line(monkeypatch, "--input", *paths, "--vocab", vocab, "--out", out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["documents"] == 60
    assert [described["name"] for described in manifest["inputs"]] == ["0.txt", "1.txt"]
    assert "60 documents" in capsys.readouterr().out
    assert open_corpus(out, VOCABULARY).vocabulary == VOCABULARY
    command_line(
        monkeypatch, "--input", *paths, "--train-vocab", 60, "--cased", "--paragraphs", "no", "--out", tmp_path / "b"
    )
    learned = open_corpus(tmp_path / "b").vocabulary
    assert (len(learned), learned.lower_case) == (60, False)
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["paragraphs"] is False
    assert learned == read_vocabulary(tmp_path / "b" / "vocab.txt", lower_case=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--train-vocab", "60", "--language", "xx"], "language=xx: give the code of a language in ISO 639"),
        (["--train-vocab", "60", "--language", "klingon"], "language=klingon: give the code"),
        (["--train-vocab", "60", "--input", "nowhere"], "nowhere is not a file; give text files, a folder"),
        ([], "either --vocab FILE or --train-vocab NUMBER"),
        (["--vocab", "v.txt", "--train-vocab", "100"], "either --vocab FILE or --train-vocab NUMBER"),
        (["--vocab", "v.txt"], "v.txt: cannot read the vocabulary"),
        (["--train-vocab", "5"], "size=5: letters and special words alone"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    path = written(tmp_path, text_of(5))
    with pytest.raises(SystemExit) as ended:
        command_line(monkeypatch, "--input", path, "--out", tmp_path / "out", *arguments)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last


def test_a_folder_of_cased_text_and_an_uncased_vocabulary(tmp_path, monkeypatch, capsys):
    """Umlauts are kept where it is asked for, each line is a document, and what does not fit is said."""
    (tmp_path / "texts").mkdir()
    written(tmp_path / "texts", "Die T\u00fcr. \u00c4rger!\n" * 9, "a.txt")
    written(tmp_path / "texts", gzip.compress("\u00d6l\n".encode()), "b.gz")
    command_line(
        monkeypatch, "--input", tmp_path / "texts", "--train-vocab", 60, "--keep-accents", "--documents", "lines",
        "--paragraphs", "no", "--language", "de", "--out", tmp_path / "kept",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "10 documents, 10 sentences" in printed
    assert "Every document is one sentence" in printed
    corpus = open_corpus(tmp_path / "kept")
    assert (corpus.vocabulary.lower_case, corpus.vocabulary.strip_accents) == (True, False)
    assert {"\u00fc", "##\u00fc", "\u00f6"} & set(corpus.vocabulary.words)
    pieces = [corpus.vocabulary.words[token] for token in corpus.tokens[-2:]]
    assert "".join(pieces).replace("##", "").endswith("l")

    write_vocabulary(Vocabulary((*SPECIALS, *"dietur")), tmp_path / "vocab.txt")
    command_line(
        monkeypatch, "--input", tmp_path / "texts", "--vocab", tmp_path / "vocab.txt", "--documents", "files",
        "--out", tmp_path / "unknown",
    )  # fmt: skip
    assert re.search(r"\d+\.\d % of the tokens are \[UNK\]: the vocabulary", capsys.readouterr().out)
    manifest = json.loads((tmp_path / "unknown" / "manifest.json").read_text())
    assert manifest["documents"] == 2
    assert manifest["unknown"] == np.count_nonzero(open_corpus(tmp_path / "unknown").tokens == 1)
