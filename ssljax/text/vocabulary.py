"""A WordPiece vocabulary, its tokenizer, and the packing of token ids into BERT's inputs."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssljax.text.reading import split_lines
from ssljax.types import BadInputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNK, CLS, SEP, MASK = SPECIALS = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
LONGEST_WORD = 100  # Hugging Face's limit in characters, beyond which a word is [UNK]; the official code's is 200


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The words of a WordPiece model, a word's id being its place.

    Attributes:
        words: distinct, with the five special ones among them; "##" begins a piece that continues a word.
        lower_case: whether text is lower-cased before it is looked up.
        strip_accents: whether accents are removed before; None: where it is lower-cased, as BERT does.

    Raises:
        BadInputError: a special word is missing, or a word occurs twice.
    """

    words: tuple[str, ...]
    lower_case: bool = True
    strip_accents: bool | None = None

    def __post_init__(self):
        if self.strip_accents == self.lower_case:
            object.__setattr__(self, "strip_accents", None)  # the same tokenizer, the same vocabulary
        missing = [word for word in SPECIALS if word not in self.ids]
        if missing:
            raise BadInputError(
                f"the vocabulary of {len(self)} words has no {missing[0]}; add it as a line of its own."
            )
        if len(self.ids) < len(self.words):
            twice = next(word for place, word in enumerate(self.words) if self.ids[word] != place)
            raise BadInputError(f"the vocabulary has the word {twice!r} twice; remove one of them.")

    def __len__(self) -> int:
        return len(self.words)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Word -> id."""
        return {word: place for place, word in enumerate(self.words)}

    @property
    def pad(self) -> int:
        """Id of [PAD]."""
        return self.ids[PAD]

    @property
    def unk(self) -> int:
        """Id of [UNK]."""
        return self.ids[UNK]

    @property
    def cls(self) -> int:
        """Id of [CLS]."""
        return self.ids[CLS]

    @property
    def sep(self) -> int:
        """Id of [SEP]."""
        return self.ids[SEP]

    @property
    def mask(self) -> int:
        """Id of [MASK]."""
        return self.ids[MASK]

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        """bool[V]: the piece continues a word."""
        return np.array([word.startswith("##") for word in self.words])

    @functools.cached_property
    def special(self) -> np.ndarray:
        """bool[V]: one of the five special words."""
        return np.array([word in SPECIALS for word in self.words])

    @property
    def case(self) -> str:
        """What happens to case and accents, in words."""
        return ("lower case" if self.lower_case else "cased") + {
            None: "",
            True: ", without accents",
            False: ", with accents",
        }[self.strip_accents]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the words, their order and the case."""
        text = "\n".join((self.case, *self.words))
        return hashlib.sha256(text.encode()).hexdigest()


def read_vocabulary(path: str | Path, lower_case: bool = True, strip_accents: bool | None = None) -> Vocabulary:
    """Read BERT's `vocab.txt`, a word a line, or the WordPiece model of a `tokenizer.json` of Hugging Face.

    Raises:
        BadInputError: no such file, not UTF-8, or not a BERT vocabulary; the sentence names the file.
    """
    try:
        text = Path(path).read_bytes().decode().removeprefix("\ufeff")
        found = _words_of_json(text) if text.startswith("{") else _words_of_lines(text)
        return Vocabulary(found, lower_case, strip_accents)
    except OSError as error:
        raise BadInputError(f"{path}: cannot read the vocabulary: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from None


def _words_of_lines(text: str) -> tuple[str, ...]:
    found = tuple(split_lines(text.removesuffix("\n")))
    if "" in found:
        raise BadInputError(f"line {found.index('') + 1} is empty; give one word a line.")
    return found


def _words_of_json(text: str) -> tuple[str, ...]:
    try:
        model = json.loads(text)["model"]
        kind, ids = model["type"], model["vocab"]
        found = sorted(ids, key=ids.__getitem__)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError("this is neither a word a line nor a tokenizer.json; give a vocab.txt.") from None
    if kind != "WordPiece" or [ids[word] for word in found] != list(range(len(found))):
        raise BadInputError(f"this is the model {kind!r} with {len(found)} words; give one of WordPiece, as BERT's.")
    return tuple(found)


def write_vocabulary(vocabulary: Vocabulary, path: str | Path) -> None:
    """Write `vocab.txt`: a word a line."""
    Path(path).write_bytes("".join(f"{word}\n" for word in vocabulary.words).encode())


def train_vocabulary(
    lines: Iterator[str], size: int, lower_case: bool = True, strip_accents: bool | None = None
) -> Vocabulary:
    """Learn WordPiece pieces from text, the same ones each time; see `ssljax.text.wordpiece`."""
    from ssljax.text import wordpiece

    return wordpiece.train_vocabulary(lines, size, lower_case, strip_accents)


def tokenizer(vocabulary: Vocabulary, specials: bool = True) -> "Tokenizer":
    """BERT's tokenizer, which adds no [CLS] or [SEP], cuts nothing and pads nothing.

    Args:
        vocabulary: its words and case.
        specials: "[MASK]" and the other special words in a text become their ids, as with Hugging Face; otherwise
            they are text like any other ("[", "mask", "]"), as in the official code, and as a corpus is read.

    Returns:
        A tokenizer of the `tokenizers` library, whose ids are those of `transformers`' BertTokenizer.

    Reference: 1810.04805, section 3; `tokenization.py` of google-research/bert.

    >>> ids = tokenizer(Vocabulary((*SPECIALS, "mask", "##s", "[", "]"))).encode("Masks [MASK]").ids
    >>> ids
    [5, 6, 4]
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    model = models.WordPiece(vocab=vocabulary.ids, unk_token=UNK, max_input_chars_per_word=LONGEST_WORD)  # type: ignore[call-arg]
    made = Tokenizer(model)
    made.normalizer = normalizers.BertNormalizer(  # type: ignore[assignment]
        lowercase=vocabulary.lower_case, strip_accents=vocabulary.strip_accents
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    if specials:
        made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    return made


def encode(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def pack(
    vocabulary: Vocabulary, first: Sequence[list[int]], second: Sequence[list[int]] | None, length: int
) -> dict[str, np.ndarray]:
    """Sentences or pairs of them as BERT's inputs: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

    Args:
        vocabulary: whose special ids are put in.
        first: token ids of N sentences.
        second: token ids of the sentences they are paired with.
        length: L, in tokens; what is too long is cut at its end, the longer of a pair first, as Hugging Face does.

    Returns:
        tokens int32[N, L] padded with [PAD]; segments int32[N, L], 1 on "b [SEP]"; lengths int32[N].

    Raises:
        BadInputError: `length` leaves no room, or the two lists are not equally long.
    """
    room = length - (2 if second is None else 3)
    if room < 1:
        raise BadInputError(f"length={length} holds nothing beside [CLS] and [SEP]; give at least 5.")
    if second is not None and len(first) != len(second):
        raise BadInputError(f"{len(first)} first sentences but {len(second)} second ones; give equal numbers of both.")
    tokens = np.full((len(first), length), vocabulary.pad, np.int32)
    segments, lengths = np.zeros_like(tokens), np.zeros(len(first), np.int32)
    for row, a in enumerate(first):
        b = [] if second is None else second[row]
        count_a, count_b = (min(len(a), room), 0) if second is None else _fit_pair(len(a), len(b), room)
        ids = [vocabulary.cls, *a[:count_a], vocabulary.sep]
        if second is not None:
            segments[row, len(ids) : len(ids) + count_b + 1] = 1
            ids += [*b[:count_b], vocabulary.sep]
        tokens[row, : len(ids)], lengths[row] = ids, len(ids)
    return {"tokens": tokens, "segments": segments, "lengths": lengths}


def _fit_pair(a: int, b: int, room: int) -> tuple[int, int]:
    """How much of each of a pair is kept: of two that are both too long the longer keeps an odd room's last token."""
    if a + b <= room:
        return a, b
    short = min(a, b)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if a > b else (short, long)
