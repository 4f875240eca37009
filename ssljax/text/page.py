"""What a text run's report shows besides figures: masked words filled in while it trains, and one head's attention."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssljax.models import bert as models
from ssljax.text import scores
from ssljax.text.fill_mask import in_words
from ssljax.text.scores import Bert
from ssljax.text.vocabulary import Vocabulary, encode, pack, tokenizer
from ssljax.types import PyTree

CHARTS = {
    "Loss, nats": {"loss": "both", "mlm_loss": "masked words", "nsp_loss": "next sentence"},
    "Masked words, per cent right": {"mlm_accuracy": "in training", "held_out_mlm_accuracy": "held out"},
    "Next sentence, per cent right": {"nsp_accuracy": "in training", "held_out_nsp_accuracy": "held out"},
    "Perplexity of held-out masked words": {"held_out_perplexity": "perplexity"},
    "Learning rate": {"lr": "learning rate"},
    "Norm of the gradient": {"grad_norm": "norm"},
    "Tokens a second": {"tokens_per_second": "tokens"},
}
NOTE = "Held-out text; per cent of masked words and of next-sentence predictions right, and the perplexity."
MOMENTS = 6  # of training at which filled sentences are shown


def page(
    parts: Bert, params: PyTree, vocabulary: Vocabulary, sentences: Sequence[str], log: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Fields of `train.report.Report` by name.

    Args:
        parts: the encoder and its heads.
        params: their parameters.
        vocabulary: vocabulary of the model.
        sentences: with [MASK]s.
        log: the rows of metrics.jsonl, of which some have `filled`.
    """
    fields: dict[str, Any] = {"charts": CHARTS, "results_note": NOTE}
    if not sentences:
        return fields
    final = scores.fill(parts, params, vocabulary, sentences)
    rows = [
        [sentence, ", ".join(f"{w} {100 * p:.0f} %" for w, p in zip(words, probabilities, strict=True))]
        for sentence, filled in zip(sentences, final, strict=True)
        for words, probabilities in filled
    ]
    tables = [("Masked words at the end", ["sentence", "the five likeliest words"], rows)]
    moments = [row for row in log if "filled" in row]
    if moments:
        chosen = np.unique(np.linspace(0, len(moments) - 1, MOMENTS).astype(int))
        header = ["sentence", *(f"step {moments[i]['step']}" for i in chosen)]
        by_step = [
            [sentence, *(_best_words(moments[i]["filled"][number]) for i in chosen)]
            for number, sentence in enumerate(sentences)
        ]
        tables.append(("Masked words through training", header, by_step))
    shown = in_words(sentences[0], final[0])
    caption = f"What each word of “{shown}” attends to: head 1 of the last layer"
    return fields | {"tables": tables, "figures": [(caption, attention_picture(parts, params, vocabulary, shown))]}


def attention_picture(parts: Bert, params: PyTree, vocabulary: Vocabulary, sentence: str) -> bytes:
    """PNG of the attention of the first head of the last layer over a sentence."""
    from ssljax.train.report.matrix_plots import attention_matrix

    (ids,) = encode(tokenizer(vocabulary), [sentence])
    ids = ids[: parts.shape.positions - 2]
    batch = {name: jnp.asarray(rows) for name, rows in pack(vocabulary, [ids], None, len(ids) + 2).items()}
    maps = models.attention_maps(params["encoder"], parts.shape, **batch)
    return attention_matrix(np.asarray(maps[-1, 0, 0]), [vocabulary.words[i] for i in np.asarray(batch["tokens"][0])])


def _best_words(filled: list) -> str:
    return " ".join(words[0] for words, _ in filled)
