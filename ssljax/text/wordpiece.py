"""Learning a WordPiece vocabulary from text."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError

if TYPE_CHECKING:
    from tokenizers.normalizers import BertNormalizer

BERT_RESERVED = (SPECIALS[0], *(f"[unused{k}]" for k in range(99)), *SPECIALS[1:])  # ids 0 to 103, as in BERT's file
LETTERS = 1000  # maximum number of different characters
DISTINCT_WORDS = 4_000_000  # beyond it words seen once are forgotten, so that memory is bounded
BLOCK = 1000  # lines, or repetitions of a word, passed on at a time


def train_vocabulary(
    lines: Iterable[str], size: int, lower_case: bool = True, strip_accents: bool | None = None
) -> Vocabulary:
    """Learn WordPiece pieces from text, the same ones each time.

    Args:
        lines: the text.
        size: number of words in the vocabulary. Over 1,000 the special words have BERT's ids (0, 100 to 103,
            with [unused*] between); at 1,000 or fewer they are 0 to 4.
        lower_case: whether to lower-case.
        strip_accents: whether to remove accents; None: where it is lower-cased.

    Returns:
        A vocabulary of `size` words, or fewer where the text has no more pieces that occur twice.

    Raises:
        BadInputError: the text has no words, or `size` is too small for its letters.

    Reference: 1810.04805, section 3.
    Differs from the paper: Google's learner was never published; this one is `tokenizers`' WordPieceTrainer, which
        merges the most frequent pair, fed so that its result does not depend on the order of a hash table.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    counts = _count_words(lines, normalizers.BertNormalizer(lowercase=lower_case, strip_accents=strip_accents))
    if not counts:
        raise BadInputError("the text has no words to learn a vocabulary from; is the input empty?")
    reserved = BERT_RESERVED if size > 1000 else SPECIALS
    letters = _frequent_letters(counts, min(LETTERS, max(128, size // 8)))
    # a word with a rarer letter is [UNK] whatever its other pieces are
    words = {word: count for word, count in counts.items() if letters.issuperset(word)}
    inside = {letter for word in words for letter in word[1:]}
    alphabet = [*sorted(letters), *(f"##{letter}" for letter in sorted(inside))]
    if len(alphabet) > size - len(reserved):
        least = len(alphabet) + len(reserved)
        raise BadInputError(f"size={size}: letters and special words alone are {least}; give a larger size.")
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    # as special tokens the letters have fixed ids; the trainer's own depend on a hash table and decide its ties
    trainer = trainers.WordPieceTrainer(
        vocab_size=size - len(reserved), min_frequency=2, show_progress=False, special_tokens=alphabet
    )
    learner.train_from_iterator(_repeated(words), trainer)
    ids = learner.get_vocab()
    return Vocabulary((*reserved, *sorted(set(ids) - set(reserved), key=ids.__getitem__)), lower_case, strip_accents)


def _count_words(lines: Iterable[str], normalizer: "BertNormalizer") -> Counter[str]:
    """How often each word occurs, punctuation marks being words."""
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.BertPreTokenizer()
    spaced: Counter[str] = Counter()
    remaining = iter(lines)
    while block := list(itertools.islice(remaining, BLOCK)):
        spaced.update(normalizer.normalize_str("\n".join(block)).split())
        if len(spaced) > DISTINCT_WORDS:
            spaced = Counter({word: count for word, count in spaced.items() if count > 1})
    words: Counter[str] = Counter()
    for text, count in spaced.items():
        for word, _ in split.pre_tokenize_str(text):
            words[word] += count
    return words


def _frequent_letters(words: dict[str, int], limit: int) -> set[str]:
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    return set(sorted(letters, key=lambda letter: (-letters[letter], letter))[:limit])


def _repeated(words: dict[str, int]) -> Iterator[str]:
    for word, count in sorted(words.items()):
        for start in range(0, count, BLOCK):
            yield " ".join([word] * min(BLOCK, count - start))
