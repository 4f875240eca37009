"""SQuAD's exact match and F1 in torchmetrics."""

import numpy as np

from tests.oracles import oracle
from tests.oracles.torchvision_import import load_torchvision

PIECES = ["the", "The", "a", "an", "An", "cat", "cats", "U.S.", "uss", "—", "café", "Café", "'s", "1,000", "1000", "$5"]
PIECES += ["theatre", "a.m.", "\u00a0", "  ", "\t", "“x”", "x", "…", "-", "state-of-the-art", "THE", "Ⅳ", "中文"]
PIECES += ["the,"]

# prediction and answer; those where either has no words left are not here: torchmetrics follows SQuAD 2.0 there
EDGES = [
    ("the cat", "cat"),
    ("Cat!", "cat"),
    ("cat cat", "cat"),
    ("cat dog", "dog cat"),
    ("a.b.c.", "ABC"),
    ("an apple a day", "apple day"),
    ("10,000", "10000"),
    ("“quoted”", "quoted"),
    ("state-of-the-art", "state of the art"),
    ("the  cat\tsat", "cat sat"),
    ("theatre", "atre"),
    ("x\u00a0y", "x y"),
    ("o'clock", "oclock"),
    ("a" * 50, "a " * 49 + "b"),
    ("İstanbul", "istanbul"),
]


def squad_pairs():
    """Predictions and answers; the drawn ones share some of their words."""
    random = np.random.default_rng(0)
    pairs = list(EDGES)
    for _ in range(400):
        prediction, answer = (
            " ".join([*random.choice(PIECES, random.integers(1, 7)).tolist(), "word"]) for _ in range(2)
        )
        pairs.append((prediction, answer))
    return pairs


@oracle("torch", "torchvision", "torchmetrics")
def squad_scores():
    """Exact match and F1 of each pair, in per cent."""
    load_torchvision()  # which torchmetrics imports
    from torchmetrics.functional.text import squad

    found = []
    for prediction, answer in squad_pairs():
        target = {"answers": {"answer_start": [0], "text": [answer]}, "id": "1"}
        scores = squad([{"prediction_text": prediction, "id": "1"}], [target])
        found.append([float(scores["exact_match"]), float(scores["f1"])])
    return {"scores": np.array(found, np.float32)}
