"""Opening a prepared directory, and holding out documents."""

import json
import re

import numpy as np
import pytest

from ssljax.text.corpus import hold_out, open_corpus
from ssljax.text.instances import assemble
from ssljax.text.prepare import prepare
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError
from tests.text.corpora import corpus_of

VOCABULARY = Vocabulary((*SPECIALS, "a", "b"))


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "text.txt").write_text("a b\nb\n\na\n")
    prepare([tmp_path / "text.txt"], VOCABULARY, tmp_path / "out")
    return tmp_path / "out"


def test_what_was_prepared(directory):
    corpus = open_corpus(str(directory), VOCABULARY)
    assert corpus.tokens.tolist() == [5, 6, 6, 5]
    assert corpus.sentences.tolist() == [0, 2, 3, 4]
    assert corpus.documents.tolist() == [[0, 2], [2, 3]]
    assert corpus.vocabulary == VOCABULARY
    for mapped in (corpus.tokens, corpus.sentences):
        assert isinstance(mapped, np.memmap)
        assert not mapped.flags.writeable


def change_manifest(directory, **entries):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refused(directory, sentence, vocabulary=None):
    with pytest.raises(BadInputError) as error:
        open_corpus(directory, vocabulary)
    assert re.search(sentence, str(error.value)), str(error.value)


def test_a_directory_of_another_vocabulary(directory):
    refused(
        directory, "another vocabulary .7 words, lower case. than the given one .6 words", Vocabulary((*SPECIALS, "a"))
    )
    refused(directory, "the given one .7 words, cased", Vocabulary(VOCABULARY.words, lower_case=False))
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, "b", "a"]))
    refused(directory, r"vocab\.txt is not the vocabulary that .* was prepared with")


def test_a_directory_of_another_version(directory):
    change_manifest(directory, format=2)
    refused(directory, "has format 2, and this version of ssljax reads 1; prepare it again")


def test_a_directory_that_is_not_whole(directory):
    path = directory / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-1])
    refused(directory, r"tokens\.bin has 7 bytes instead of 8")
    path.unlink()
    refused(directory, r"tokens\.bin has 0 bytes instead of 8")
    (directory / "manifest.json").write_text("{")
    refused(directory, r"manifest\.json cannot be read")
    (directory / "manifest.json").unlink()
    refused(directory, r"not a prepared corpus .it has no manifest\.json.")


@pytest.mark.parametrize("name", ["sentences.bin", "documents.bin"])
@pytest.mark.parametrize("change", [(0, 1), (0, -1), (1, 0), (1, 2**62), (1, -5), (-1, 99)])
def test_offsets_that_do_not_rise_to_the_end(directory, name, change):
    path, (place, value) = directory / name, change
    offsets = np.fromfile(path, np.int64)
    offsets[place] = value
    offsets.tofile(path)
    refused(directory, rf"{name} is damaged: its offsets do not rise from 0 to \d; prepare it again")


def test_a_token_that_is_in_no_vocabulary(directory):
    tokens = np.fromfile(directory / "tokens.bin", np.uint16)
    tokens[2] = 7
    tokens.tofile(directory / "tokens.bin")
    corpus = open_corpus(directory)
    rows = np.array([[0, 2, 2, 3, 0]])
    with pytest.raises(BadInputError, match="is damaged: it holds the token 7, and its vocabulary has 7 words"):
        assemble(corpus, rows, 8)
    assert assemble(corpus, np.array([[0, 1, 1, 2, 0]]), 8)["lengths"].tolist() == [5]


@pytest.mark.parametrize(("documents", "every", "held"), [(10, 5, [4, 9]), (10, 3, [2, 5, 8]), (4, 100, [2, 3])])
def test_every_so_manyth_document_is_held_out(documents, every, held):
    corpus = corpus_of([[1, 2]] * documents)
    train, held_out = hold_out(corpus, every)
    assert (held_out.documents[:, 0] // 2).tolist() == held
    assert sorted([*train.documents.tolist(), *held_out.documents.tolist()]) == corpus.documents.tolist()
    assert train.tokens is held_out.tokens is corpus.tokens


@pytest.mark.parametrize(("documents", "every"), [(3, 100), (10, 1)])
def test_too_few_documents_to_hold_some_out(documents, every):
    with pytest.raises(BadInputError, match=f"held_out={every} of {documents} documents"):
        hold_out(corpus_of([[1, 2]] * documents), every)
