"""Made-up texts and what a corpus prepared from them must hold."""

import re

import numpy as np

from ssljax.text.corpus import open_corpus
from ssljax.text.vocabulary import SPECIALS, Vocabulary, encode, tokenizer

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
