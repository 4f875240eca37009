"""Preparing a corpus: what is in the files, resuming, atomicity, memory, bad input, the command line."""

import gzip
import json
import lzma
import re
import subprocess
import sys
import tracemalloc
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import bert_prepare
from ssljax.data.text import prepare as module
from ssljax.data.text.corpus import open_corpus
from ssljax.data.text.prepare import prepare
from ssljax.data.text.vocabulary import SPECIALS, Vocabulary, encode, read_vocabulary, tokenizer, write_vocabulary
from ssljax.types import BadInputError

LETTERS = "abcdefghijklmnopqrstuvwxyz.?!=é中"
VOCABULARY = Vocabulary((*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "[", "]", "mask", "the"))


def text_of(documents, seed=0):
    """Text of so many documents, of 1 to 5 paragraphs of 1 to 3 sentences."""
    rng = np.random.default_rng(seed)

    def sentence():
        words = ["".join(rng.choice(list("abcdeé"), rng.integers(1, 6))) for _ in range(rng.integers(1, 8))]
        return " ".join(words).capitalize() + "."

    def document():
        lines = [" ".join(sentence() for _ in range(rng.integers(1, 4))) for _ in range(rng.integers(1, 6))]
        return "\n".join(lines)

    return "\n\n".join(document() for _ in range(documents)) + "\n"


def written(tmp_path, text, name="text.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def documents_in(directory):
    """Documents as lists of sentences as lists of ids."""
    corpus = open_corpus(directory)
    return [
        [corpus.tokens[slice(*corpus.sentences[s : s + 2])].tolist() for s in range(first, stop)]
        for first, stop in corpus.documents.tolist()
    ]


def documents_of(text, vocabulary=VOCABULARY, split=lambda line: [line]):
    """The same from the text, held in memory as a whole."""
    to_ids = tokenizer(vocabulary, specials=False)
    documents = []
    for part in re.split(r"\n[^\S\n]*(?=\n)", "\n" + text + "\n"):
        texts = [sentence for line in part.split("\n") if line.strip() for sentence in split(line.strip())]
        sentences = [ids for ids in encode(to_ids, texts) if ids]
        if sentences:
            documents.append(sentences)
    return documents


LINES = st.lists(
    st.one_of(st.just(""), st.just(" \t"), st.text("ab é中\r\0\u2028", max_size=6), st.just("[MASK] a")), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(LINES, st.integers(1, 40), st.booleans())
def test_what_is_in_the_files(tmp_path_factory, lines, block_bytes, ends):
    folder = tmp_path_factory.mktemp("prepare")
    text = "a b\n\nb a\n" + "\n".join(lines) + ("\n" if ends else "")
    path = written(folder, text)
    manifest = prepare([path], VOCABULARY, folder / "out", paragraphs=False, block_bytes=block_bytes)
    documents = documents_of(text)
    assert documents_in(folder / "out") == documents
    assert manifest["documents"] == len(documents)
    assert manifest["sentences"] == sum(map(len, documents))
    assert manifest["tokens"] == sum(len(sentence) for document in documents for sentence in document)
    assert sorted(child.name for child in folder.iterdir()) == ["out", "text.txt"]


def test_paragraphs_are_split_and_found_out(tmp_path):
    from sentencex import segment  # type: ignore[attr-defined]

    text = text_of(40)
    path = written(tmp_path, text)
    split, whole = (documents_of(text, split=how) for how in (lambda line: segment("en", line), lambda line: [line]))
    assert prepare([path], VOCABULARY, tmp_path / "auto")["paragraphs"] is True
    assert documents_in(tmp_path / "auto") == split
    assert prepare([path], VOCABULARY, tmp_path / "no", paragraphs=False)["paragraphs"] is False
    assert documents_in(tmp_path / "no") == whole
    # the sentences are the paragraph's words, none lost
    for a, b in zip(split, whole, strict=True):
        assert list(chain.from_iterable(a)) == list(chain.from_iterable(b))
    assert sum(map(len, split)) > 1.5 * sum(map(len, whole))
    lines = written(tmp_path, "\n".join("\n".join(segment("en", line)) for line in text.split("\n")), "lines.txt")
    assert prepare([lines], VOCABULARY, tmp_path / "lines")["paragraphs"] is False
    assert documents_in(tmp_path / "lines") == split


def test_compressed_files_and_any_block_size_give_the_same(tmp_path):
    text = text_of(40)
    raw = text.encode()
    paths = [
        written(tmp_path, raw),
        written(tmp_path, lzma.compress(raw), "text.txt.xz"),
        written(tmp_path, gzip.compress(raw), "text.txt.gz"),
    ]
    manifests = [
        prepare([path], VOCABULARY, tmp_path / f"out{k}{size}", block_bytes=size)
        for k, path in enumerate(paths)
        for size in (100, 1 << 20)
    ]
    assert all(manifest["files"] == manifests[0]["files"] for manifest in manifests)
    assert len({manifest["inputs"][0]["sha256"] for manifest in manifests}) == 1
    assert manifests[0]["inputs"][0]["bytes"] == len(raw)


def test_a_file_ends_its_last_document(tmp_path):
    paths = [
        written(tmp_path, text, name) for name, text in (("a.txt", "a\nb"), ("b.txt", "b"), ("c.txt", "a\n\nb\n\n"))
    ]
    prepare(paths, VOCABULARY, tmp_path / "out")
    a, b = VOCABULARY.ids["a"], VOCABULARY.ids["b"]
    assert documents_in(tmp_path / "out") == [[[a], [b]], [[b]], [[a]], [[b]]]


@pytest.mark.parametrize(("words", "expected"), [(100, np.uint16), (65_536, np.uint16), (65_537, np.int32)])
def test_the_smallest_type_that_holds_the_ids(words, expected, tmp_path):
    vocabulary = Vocabulary((*SPECIALS, *(f"w{k}" for k in range(words - 5))))
    path = written(tmp_path, f"w0 w{words - 6}\n\nw1")
    prepare([path], vocabulary, tmp_path / "out")
    corpus = open_corpus(tmp_path / "out")
    assert corpus.tokens.dtype == expected
    assert corpus.tokens.tolist() == [5, words - 1, 6]


def stopped_after(blocks, how):
    """A progress function that ends the run after so many blocks."""
    count = 0

    def progress(_):
        nonlocal count
        count += 1
        if count == blocks:
            how()

    return progress


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 5])
def test_a_stopped_run_is_taken_up(after, tmp_path, monkeypatch):
    text = text_of(60)
    path, out = written(tmp_path, text), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare([path], VOCABULARY, out, block_bytes=500, progress=stopped_after(after, interrupt))
    assert not out.exists()
    with pytest.raises(BadInputError, match="no prepared corpus"):
        open_corpus(out)
    done = []
    original = module._tokenize_block
    monkeypatch.setattr(module, "_tokenize_block", lambda block, *rest: done.append(block) or original(block, *rest))
    manifest = prepare([path], VOCABULARY, out, block_bytes=500)
    assert done[0].start > 0
    blocks = len(done) + after
    done.clear()
    assert prepare([path], VOCABULARY, tmp_path / "whole", block_bytes=500)["files"] == manifest["files"]
    assert len(done) == blocks
    assert not (tmp_path / "out.partial").exists()


KILLED = """
import os, signal, sys
from tests.data.text.test_prepare import VOCABULARY, prepare, stopped_after
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "merging":
    import ssljax.data.text.prepare as module
    module.write_vocabulary = lambda *_: kill()
    prepare([sys.argv[1]], VOCABULARY, sys.argv[2], block_bytes=500)
prepare([sys.argv[1]], VOCABULARY, sys.argv[2], block_bytes=500, progress=stopped_after(4, kill))
"""


@pytest.mark.parametrize("when", ["tokenizing", "merging"])
def test_a_killed_run_leaves_nothing_that_looks_finished(when, tmp_path):
    path, out = written(tmp_path, text_of(60)), tmp_path / "out"
    ran = subprocess.run([sys.executable, "-c", KILLED, str(path), str(out), when], check=False)
    assert ran.returncode == -9
    assert not out.exists()
    assert len(list((tmp_path / "out.partial").glob("*.npz"))) >= 4
    with pytest.raises(BadInputError, match="no prepared corpus"):
        open_corpus(tmp_path / "out.partial")
    manifest = prepare([path], VOCABULARY, out, block_bytes=500)
    assert manifest["files"] == prepare([path], VOCABULARY, tmp_path / "whole")["files"]


@pytest.mark.parametrize("what", ["text", "vocabulary", "case", "paragraphs"])
def test_what_a_stopped_run_left_serves_only_the_same_run(what, tmp_path):
    path, out = written(tmp_path, text_of(60)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare([path], VOCABULARY, out, block_bytes=500, paragraphs=True, progress=stopped_after(3, interrupt))
    vocabulary, paragraphs = VOCABULARY, what != "paragraphs"
    if what == "text":
        written(tmp_path, text_of(60, seed=1))
    elif what == "vocabulary":
        vocabulary = Vocabulary(VOCABULARY.words[::-1])
    elif what == "case":
        vocabulary = Vocabulary(VOCABULARY.words, lower_case=False)
    manifest = prepare([path], vocabulary, out, block_bytes=500, paragraphs=paragraphs)
    assert manifest["files"] == prepare([path], vocabulary, tmp_path / "b", paragraphs=paragraphs)["files"]


def test_a_part_that_was_being_written_is_not_used(tmp_path):
    path, out = written(tmp_path, text_of(60)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare([path], VOCABULARY, out, block_bytes=500, progress=stopped_after(3, interrupt))
    part = max((tmp_path / "out.partial").glob("*.npz"))
    part.rename(part.with_suffix(".tmp"))
    part.with_suffix(".tmp").write_bytes(b"half")
    manifest = prepare([path], VOCABULARY, out, block_bytes=500)
    assert manifest["files"] == prepare([path], VOCABULARY, tmp_path / "whole")["files"]


def test_memory_does_not_grow_with_the_text(tmp_path):
    """Python's and NumPy's own allocations; keeping the tokens would need 0.6 MB more for the longer one."""
    peaks = []
    for times in (1, 10, 40):  # the first one also loads what is needed
        path = written(tmp_path, text_of(100) * times, f"{times}.txt")
        tracemalloc.start()
        out = tmp_path / f"out{times}"
        manifest = prepare([path], VOCABULARY, out, paragraphs=True, block_bytes=20_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert manifest["tokens"] > 300_000
    assert peaks[2] < peaks[1] + 100_000


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
    refused(tmp_path, [tmp_path / "missing.txt"], r"missing\.txt is no file")
    refused(tmp_path, [], "no input files")
    raw = lzma.compress(text_of(100).encode())
    refused(tmp_path, [written(tmp_path, raw[: len(raw) // 2], "short.xz")], r"short\.xz is damaged or cut short")
    refused(tmp_path, [written(tmp_path, b"no archive", "text.gz")], r"text\.gz is damaged or cut short")
    (tmp_path / "taken").mkdir()
    written(tmp_path / "taken", "x")
    refused(tmp_path, [one], "taken is already there", out=tmp_path / "taken")


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
