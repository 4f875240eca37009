"""Hugging Face's BertTokenizer on lines that are hard to tokenize."""

import tempfile
from pathlib import Path

import numpy as np

from tests.oracles import oracle

# ruff: noqa: RUF001 (characters that look alike are the point)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éüßøłıſαβγдыжאبनाकก中国日本語の한국ｆ１"
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¿§«»–—‘’“”…€£°、。「」"
PIECES = "the and ing tion ##ing ##tion ##s ##ed mask MASK cls hello World don ##n ##の ##한 naive resume ##me"
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *dict.fromkeys([*PIECES.split(), *LETTERS, *(f"##{letter}" for letter in LETTERS), *MARKS]),
]
# control, ASCII, Latin-1, accents, combining, Greek to Hebrew, Arabic, Indic and Thai, marks, spaces, symbols, CJK,
# Hangul, private use, compatibility forms, other planes, emoji, tags
RANGES = [
    *((0, 0x20), (0x20, 0x7F), (0x20, 0x7F), (0x61, 0x7B), (0x7F, 0xA0), (0xA0, 0x250), (0x250, 0x300), (0x300, 0x370)),
    *((0x370, 0x600), (0x600, 0x700), (0x900, 0xE80), (0x1AB0, 0x1B00), (0x1E00, 0x2000), (0x2000, 0x2070)),
    *((0x2070, 0x2C00), (0x2E80, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0xE100), (0xF900, 0xFB00), (0xFB00, 0xFFFE)),
    *((0x10000, 0x10400), (0x1D400, 0x1D800), (0x1F300, 0x1FB00), (0x20000, 0x20100), (0x2F800, 0x2FA20)),
    (0xE0000, 0xE0100),
]
ODDITIES = [
    *("[MASK]", " [SEP]", "[CLS] ", "[PAD]", "[UNK]", "[mask]", "##ing", "\t", "\r", "\n", "\0", "\u3000", "\u00a0"),
    *(
        "\u200d",
        "\u200b",
        "\ufeff",
        "\ufffd",
        "\u2028",
        "\u0085",
        "don't",
        "İ",
        "ﬁ",
        "ß",
        "ẞ",
        "e\u0301",
        "Ω",
        "ǅ",
        "ŉ",
    ),
    *("a" * 99, "b" * 100, "c" * 101, "é" * 100, "e\u0301" * 60, "hello", "World", "naïve", "résumé"),
]
EXTREMES = ["", " ", "\n", "a" * 10_000, "é" * 10_000, "中" * 1_000, "\u0301" * 5_000, "." * 1_000, "a b " * 2_000]


def nasty_lines(count: int, seed: int) -> list[str]:
    """Lines of characters from all over Unicode, oddities and extremes; the same for the same seed."""
    rng = np.random.default_rng(seed)
    lines = list(EXTREMES)
    while len(lines) < count:
        text = ""
        for _ in range(rng.integers(0, 10)):
            low, high = RANGES[rng.integers(len(RANGES))]
            text += "".join(map(chr, rng.integers(low, high, rng.integers(1, 8))))
            if rng.random() < 0.4:
                text += ODDITIES[rng.integers(len(ODDITIES))]
        lines.append(text)
    return lines[:count]


def pairs(seed: int) -> tuple[list[str], list[str]]:
    """Pairs of texts of 0 to 15 one-letter words."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 16))) for _ in range(400)]
    return texts[::2], texts[1::2]


def bert_tokenizer(path, lower_case, specials):
    """Hugging Face's tokenizer; `specials`: names of special words in the text become their ids."""
    from transformers import BertTokenizer

    return BertTokenizer(str(path), do_lower_case=lower_case, split_special_tokens=not specials)


def _with_words(function):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_bytes("".join(f"{word}\n" for word in WORDS).encode())
        return function(path)


@oracle("transformers")
def bert_tokenizer_ids():
    def tokenize(path):
        arrays = {}
        for lower_case in (True, False):
            for specials in (True, False):
                theirs = bert_tokenizer(path, lower_case, specials)
                ids = [theirs(line, add_special_tokens=False)["input_ids"] for line in nasty_lines(1000, 0)]
                name = f"{lower_case}_{specials}"
                arrays[f"ids_{name}"] = np.array([place for line in ids for place in line], np.int16)
                arrays[f"counts_{name}"] = np.array([len(line) for line in ids], np.int32)
        return arrays

    return _with_words(tokenize)


@oracle("transformers")
def bert_tokenizer_pairs():
    def tokenize(path):
        theirs = bert_tokenizer(path, True, True)
        first, second = pairs(0)
        arrays = {}
        for length in (5, 8, 9, 16):
            for name, others in (("pair", second), ("single", None)):
                packed = theirs(first, others, truncation=True, max_length=length, padding="max_length")
                arrays[f"{name}_tokens_{length}"] = np.array(packed["input_ids"], np.int32)
                arrays[f"{name}_segments_{length}"] = np.array(packed["token_type_ids"], np.int32)
                arrays[f"{name}_lengths_{length}"] = np.array(packed["attention_mask"], np.int32).sum(axis=1)
        return arrays

    return _with_words(tokenize)
