"""BERT's sentence pairs, drawn from a corpus as ranges of its tokens."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from ssljax.text.corpus import Corpus
from ssljax.types import BadInputError

INSTANCES = 2  # this stream of the seed; `data.order` has 0 and 1
WORDS_AT_ONCE = 1 << 12
HALF = 1 << 63
MASK = (1 << 64) - 1


def plan(corpus: Corpus, *, length: int, seed: int, epoch: int, short_share: float = 0.1) -> np.ndarray:
    """One pass over the corpus as sentence pairs, the same for the same arguments.

    Each document is cut into chunks of whole sentences that reach a target number of tokens. A chunk is split after a
    random sentence into A and B; in half the cases, and where the chunk is a single sentence, B comes from a random
    place of another document instead and the chunk's unused sentences begin the next chunk.

    Args:
        corpus: a corpus of two or more documents.
        length: L, of the assembled instance in tokens, [CLS] and two [SEP] included; 5 or more.
        seed: 0 or more.
        epoch: the pass, each with draws of its own (the official `dupe_factor` is the number of passes).
        short_share: share of the documents whose target is uniform in 2 to L - 3 instead of L - 3.

    Returns:
        int64[N, 5], in the order of the documents: a_start, a_stop, b_start, b_stop as ranges of `corpus.tokens`
        after truncation, and is_random.

    Raises:
        BadInputError: a corpus of one document, or a length or seed out of range.

    Reference: 1810.04805, section 3.1 and appendix A.2; `create_instances_from_document` and `truncate_seq_pair` in
        `create_pretraining_data.py` of google-research/bert.
    Differs from the paper: the official code tries ten times to find another document; here it is always another.
    """
    count = len(corpus.documents)
    if count < 2:
        raise BadInputError(
            f"{corpus.directory} has {count} document(s), and a random next sentence needs another one; "
            "separate documents by blank lines or give more text."
        )
    if length < 5 or seed < 0 or epoch < 0:
        raise BadInputError(f"length={length}, seed={seed}, epoch={epoch}: give a length of at least 5, others from 0.")
    draw = _random_words(seed, epoch).__next__
    offsets = corpus.sentences.data  # indexed one by one, where a memory-mapped array is slow
    documents = corpus.documents.tolist()
    room = length - 3
    threshold = int(short_share * (MASK + 1))
    rows = array("q")
    for index, (first, stop) in enumerate(documents):
        target = room if draw() >= threshold else 2 + (draw() * (room - 1) >> 64)
        while first < stop:
            # the chunk ends with the sentence that reaches the target, or with the document
            chunk = min(bisect_left(offsets, offsets[first] + target, first + 1, stop), stop)
            split = first + 1
            if chunk - first >= 2:
                split += draw() * (chunk - first - 1) >> 64
            is_random = chunk - first == 1 or draw() < HALF
            if is_random:
                other = draw() * (count - 1) >> 64
                other_first, other_stop = documents[other + (other >= index)]
                b_first = other_first + (draw() * (other_stop - other_first) >> 64)
                wanted = target - (offsets[split] - offsets[first])
                b_stop = min(bisect_left(offsets, offsets[b_first] + wanted, b_first + 1, other_stop), other_stop)
            else:
                b_first, b_stop = split, chunk
            ranges = _truncated(offsets[first], offsets[split], offsets[b_first], offsets[b_stop], room, draw)
            rows.extend((*ranges, is_random))
            first = split if is_random else chunk
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


def _random_words(seed: int, epoch: int) -> Iterator[int]:
    """Raw Philox words, which NumPy promises never to change, unlike what its generators make of them."""
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(INSTANCES, epoch)))
    while True:
        yield from bits.random_raw(WORDS_AT_ONCE).tolist()


def _truncated(a_start: int, a_stop: int, b_start: int, b_stop: int, room: int, draw) -> tuple[int, int, int, int]:
    """Remove tokens from the longer of two ranges until they fit, each from its front or its end by a coin.

    How many each loses does not depend on the coins, so each side's coins are the bits of random words.
    """
    a, b = a_stop - a_start, b_stop - b_start
    excess = a + b - room
    if excess <= 0:
        return a_start, a_stop, b_start, b_stop
    # first the longer alone, then both by turns, B first as it is cut when they are equal
    alone = min(excess, abs(a - b))
    by_turns = excess - alone
    from_a = (alone if a > b else 0) + by_turns // 2
    from_b = excess - from_a
    a_front, b_front = _heads(from_a, draw), _heads(from_b, draw)
    return a_start + a_front, a_stop - (from_a - a_front), b_start + b_front, b_stop - (from_b - b_front)


def _heads(coins: int, draw) -> int:
    heads = 0
    while coins > 0:
        word = draw()
        heads += (word & (1 << coins) - 1 if coins < 64 else word).bit_count()
        coins -= 64
    return heads


def assemble(corpus: Corpus, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """The instances of some rows of a plan.

    Args:
        corpus: the plan's.
        rows: int64[n, 5].
        length: L, the plan's.

    Returns:
        tokens int32[n, L]: [CLS] a [SEP] b [SEP], then padding 0; segments int32[n, L]: 1 on "b [SEP]";
        lengths int32[n], special tokens included; is_random int32[n].

    Raises:
        BadInputError: a token that is in no vocabulary.
    """
    words = corpus.vocabulary
    a_start, a_stop, b_start, b_stop, is_random = rows.T[..., None]
    a_end = a_stop - a_start + 1  # where [SEP] stands
    end = a_end + b_stop - b_start + 1
    place = np.arange(length)
    first = place < a_end
    from_text = (place > 0) & (place != a_end) & (place < end)
    index = np.where(first, a_start - 1, b_start - a_end - 1) + place
    # a plain view of the memory map, which is slow to index
    tokens = np.asarray(corpus.tokens)[np.where(from_text, index, 0)].astype(np.int32)
    special = np.where(place == 0, words.cls, np.where((place == a_end) | (place == end), words.sep, words.pad))
    tokens = np.where(from_text, tokens, special.astype(np.int32))
    if tokens.max(initial=0) >= len(words):
        raise BadInputError(
            f"{corpus.directory} is damaged: it holds the token {tokens.max()}, and its vocabulary has {len(words)} "
            "words; prepare it again with python -m experiments.bert_prepare."
        )
    return {
        "tokens": tokens,
        "segments": ((place > a_end) & (place <= end)).astype(np.int32),
        "lengths": (end[:, 0] + 1).astype(np.int32),
        "is_random": is_random[:, 0].astype(np.int32),
    }
