"""Small corpora whose token ids are their own places, so that any range of tokens says where it came from."""

from pathlib import Path

import numpy as np

from ssljax.text.corpus import Corpus
from ssljax.text.vocabulary import SPECIALS, Vocabulary

FIRST = len(SPECIALS)  # token t of the corpus has the id FIRST + t


def corpus_of(documents):
    """A corpus from lists of documents, each a list of sentence lengths."""
    lengths = [length for document in documents for length in document]
    sentences = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    stops = np.cumsum([len(document) for document in documents])
    starts = np.concatenate([[0], stops[:-1]])
    tokens = np.arange(FIRST, FIRST + sentences[-1], dtype=np.int32)
    vocabulary = Vocabulary((*SPECIALS, *map(str, range(sentences[-1]))))
    return Corpus(Path("corpus"), tokens, sentences, np.stack([starts, stops], axis=1).astype(np.int64), vocabulary)


def random_corpus(documents, seed, longest=30, sentences=16):
    """Documents of 1 to `sentences` sentences of 1 to `longest` tokens, long ones being rarer."""
    rng = np.random.default_rng(seed)
    return corpus_of(
        [
            np.ceil(longest * rng.random(rng.integers(1, sentences + 1)) ** 2).astype(int).tolist()
            for _ in range(documents)
        ]
    )


def document_of(corpus, place):
    """Which document a token is in."""
    sentence = np.searchsorted(corpus.sentences, place, "right") - 1
    return np.searchsorted(corpus.documents[:, 1], sentence, "right")
