import numpy as np
import pytest

from ssljax.text.fill_mask import fill_mask
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError

VOCABULARY = Vocabulary((*SPECIALS, "paris", "is", "the", "capital", "river", "."))


def predict(tokens, segments, lengths, positions):
    """Logits of a position: its number at word (position), and 1 at "capital"."""
    assert tokens.shape == segments.shape == (1, 32)
    assert tokens[0, 0] == VOCABULARY.cls
    assert tokens[0, lengths[0] - 1] == VOCABULARY.sep
    logits = np.zeros((1, positions.shape[1], len(VOCABULARY) + 5))
    for slot, position in enumerate(positions[0]):
        assert tokens[0, position] == VOCABULARY.mask
        logits[0, slot, [8, 5 + slot]] = 1.0, 2.0
    logits[..., len(VOCABULARY) :] = 100.0  # rows of the table that are no words
    return logits


def test_each_mask_has_its_words_and_their_probabilities():
    first, second = fill_mask(predict, VOCABULARY, "The [MASK] is [MASK].", longest=64, top=2)
    assert first.words == ("paris", "capital")
    assert second.words == ("is", "capital")
    total = np.e**2 + np.e + len(VOCABULARY) - 2
    assert first.probabilities == pytest.approx((np.e**2 / total, np.e / total))


@pytest.mark.parametrize(
    ("sentence", "longest", "words"), [("the river", 64, r"no \[MASK\]"), ("the [MASK]" * 9, 12, "shorten")]
)
def test_misuse(sentence, longest, words):
    with pytest.raises(BadInputError, match=words):
        fill_mask(predict, VOCABULARY, sentence, longest=longest)
