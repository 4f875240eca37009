import pytest

from ssljax.plan import chips
from ssljax.types import BadInputError


@pytest.mark.parametrize(
    ("name", "count", "shape", "words"),
    [
        ("v5e-16", 16, (4, 4), "v5e-16: 16 chips (4x4); the name counts chips"),
        ("v5litepod-256", 256, (16, 16), "v5e-256: 256 chips (16x16); the name counts chips"),
        ("v6e-8", 8, (2, 4), "v6e-8: 8 chips (2x4); the name counts chips"),
        ("v6e-1", 1, (1, 1), "v6e-1: 1 chip (1x1); the name counts chips"),
        ("v4-8", 4, (2, 2, 1), "v4-8: 8 TensorCores on 4 chips (2x2x1); the name counts cores"),
        ("v4-128", 64, (4, 4, 4), "v4-128: 128 TensorCores on 64 chips (4x4x4); the name counts cores"),
        ("V5P-64", 32, (2, 4, 4), "v5p-64: 64 TensorCores on 32 chips (2x4x4); the name counts cores"),
    ],
)
def test_the_number_counts_what_google_counts(name, count, shape, words):
    found = chips.parse(name)
    assert (found.chips, found.shape, found.described) == (count, shape, words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9-16", "the chips are v4, v5e, v5p, v6e"),
        ("", "give CHIP-NUMBER"),
        ("v5e", "give CHIP-NUMBER"),
        ("v5e-4x4", "give CHIP-NUMBER"),
        ("v5e-17", "v5e slices count chips, and there are v5e-1, v5e-4, v5e-8"),
        ("v4-4", "v4 slices count TensorCores, two a chip, and there are v4-8"),
    ],
)
def test_other_names_are_refused_in_one_sentence(name, message):
    with pytest.raises(BadInputError, match=message) as refused:
        chips.parse(name)
    assert "\n" not in str(refused.value)


def test_slices_of_so_many_chips():
    assert [chips.slices(chip, 8).name for chip in ("v4", "v5e", "v5p", "v6e")] == ["v4-16", "v5e-8", "v5p-16", "v6e-8"]
