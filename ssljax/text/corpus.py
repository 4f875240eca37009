"""A prepared corpus: token ids in one flat memory-mapped array, with the offsets of sentences and documents."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.text.vocabulary import Vocabulary, read_vocabulary
from ssljax.types import BadInputError

FORMAT = 1
MANIFEST, WORDS = "manifest.json", "vocab.txt"
TOKENS, SENTENCES, DOCUMENTS = "tokens.bin", "sentences.bin", "documents.bin"
UNKNOWN = 0.02  # share of the tokens from which it is a warning
AGAIN = "prepare it again with python -m experiments.bert_prepare"


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Documents of tokenized sentences; none of the text is in memory.

    Attributes:
        directory: the directory it was read from.
        tokens: uint16 or int32 [T], memory-mapped, without special tokens.
        sentences: int64[S + 1], memory-mapped: sentence s is tokens[sentences[s] : sentences[s + 1]], never empty.
        documents: int64[D, 2]: each document's first and one-past-last sentence, at least one sentence.
        vocabulary: what the tokens are ids of.
        fingerprint: what the corpus is, in short: a hash over the checksums of its files and the vocabulary.
    """

    directory: Path
    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    vocabulary: Vocabulary
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return str(self.directory)

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.tokens, np.memmap):
            return Corpus, tuple(getattr(self, field.name) for field in dataclasses.fields(self))
        # memory maps would travel to another process as copies
        return _with_documents, (self.directory, self.documents, self.vocabulary, self.fingerprint)


def token_type(vocabulary: Vocabulary) -> np.dtype:
    """The smaller of uint16 and int32 that holds every id."""
    return np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.int32)


def open_corpus(directory: str | Path, vocabulary: Vocabulary | None = None) -> Corpus:
    """Open what `prepare` wrote.

    Args:
        directory: its `out`.
        vocabulary: the one that the tokens must be ids of; None takes the directory's own.

    Raises:
        BadInputError: not a prepared directory, one of another version or vocabulary, or a file cut short or
            damaged.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    own = read_vocabulary(directory / WORDS, manifest["lower_case"], manifest.get("strip_accents"))
    if own.digest != manifest["vocabulary"]:
        raise BadInputError(f"{directory / WORDS} is not the vocabulary that {directory} was prepared with; {AGAIN}.")
    if vocabulary is not None and vocabulary.digest != own.digest:
        described = [f"{len(v)} words, {v.case}" for v in (own, vocabulary)]
        raise BadInputError(
            f"{directory} was prepared with another vocabulary ({described[0]}) than the given one ({described[1]}); "
            f"give that one or {AGAIN}."
        )
    for name, stored in manifest["files"].items():
        path = directory / name
        size = path.stat().st_size if path.exists() else 0
        if size != stored["bytes"]:
            raise BadInputError(f"{path} has {size} bytes instead of {stored['bytes']}; {AGAIN}.")
    offsets = np.fromfile(directory / DOCUMENTS, np.int64)
    documents = np.stack([offsets[:-1], offsets[1:]], axis=1)
    corpus = _with_documents(directory, documents, own, _fingerprint(manifest))
    _check_offsets(directory / SENTENCES, corpus.sentences, len(corpus.tokens))
    _check_offsets(directory / DOCUMENTS, offsets, len(corpus.sentences) - 1)
    return corpus


def _with_documents(directory: Path, documents: np.ndarray, vocabulary: Vocabulary, fingerprint: str) -> Corpus:
    tokens = np.memmap(directory / TOKENS, token_type(vocabulary), "r")
    sentences = np.memmap(directory / SENTENCES, np.int64, "r")
    return Corpus(directory, tokens, sentences, documents, vocabulary, fingerprint)


def _check_offsets(path: Path, offsets: np.ndarray, end: int) -> None:
    """Offsets of parts that are not empty begin at 0, rise, and end at `end`."""
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != end or np.any(offsets[1:] <= offsets[:-1]):
        raise BadInputError(f"{path} is damaged: its offsets do not rise from 0 to {end}; {AGAIN}.")


def _fingerprint(manifest: dict[str, Any]) -> str:
    contents = json.dumps([manifest["vocabulary"], manifest["files"]], sort_keys=True)
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a prepared directory.

    Raises:
        BadInputError: there is none, it cannot be read, or it is of another format.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise BadInputError(f"{directory} is not a prepared corpus (it has no {MANIFEST}); {AGAIN}.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise BadInputError(f"{path} cannot be read; {AGAIN}.") from None
    if version != FORMAT:
        raise BadInputError(f"{directory} has format {version}, and this version of ssljax reads {FORMAT}; {AGAIN}.")
    return manifest


def notes(manifest: dict[str, Any]) -> list[str]:
    """Sentences on what makes a corpus hard to learn from, if anything does."""
    found, tokens = [], manifest["tokens"]
    if manifest["unknown"] > UNKNOWN * tokens:
        found.append(
            f"{100 * manifest['unknown'] / tokens:.1f} % of the tokens are [UNK]: the vocabulary does not fit the "
            "text; look at its language and case, or learn one from the text."
        )
    if manifest["single"] == manifest["documents"]:
        found.append(
            "Every document is one sentence, so that all next sentences are random ones and predicting the next "
            "sentence teaches nothing."
        )
    return found


def hold_out(corpus: Corpus, every: int = 100) -> tuple[Corpus, Corpus]:
    """Split off every `every`-th document for evaluation.

    Args:
        corpus: a corpus of at least four documents.
        every: 2 or more. At least two documents are held out, since a random next needs another one.

    Returns:
        The rest, and the held-out documents; both over the same arrays.

    Raises:
        BadInputError: too few documents for both parts to have two.
    """
    count = len(corpus.documents)
    if count < 4 or every < 2:
        raise BadInputError(
            f"held_out={every} of {count} documents in {corpus.directory}: two must be held out and two remain; "
            "give more documents, and --held-out 2 or more."
        )
    held = np.zeros(count, bool)
    held[every - 1 :: every] = True
    if held.sum() < 2:
        held[-2:] = True
    parts = [dataclasses.replace(corpus, documents=corpus.documents[chosen]) for chosen in (~held, held)]
    return parts[0], parts[1]
