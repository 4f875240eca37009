"""Preparing a corpus: what is in the files, formats, memory."""

import bz2
import gzip
import lzma
import tracemalloc
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.text.corpus import open_corpus
from ssljax.text.prepare import prepare
from ssljax.text.reading import zstd
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from tests.text.texts import VOCABULARY, documents_in, documents_of, text_of, written

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
        written(tmp_path, bz2.compress(raw), "text.txt.bz2"),
        written(tmp_path, zstd.compress(raw[:50]) + zstd.compress(raw[50:]), "text.txt.zst"),
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
