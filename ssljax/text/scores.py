"""Evaluation of a BERT: held-out words during training, the final table with baselines that count words."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import sharding
from ssljax.evals.features import place
from ssljax.methods import bert as method
from ssljax.models import bert as models
from ssljax.text import instances, ngrams
from ssljax.text.corpus import Corpus
from ssljax.text.fill_mask import Filled, fill_mask
from ssljax.text.masking import Masking
from ssljax.text.vocabulary import Vocabulary, encode, tokenizer
from ssljax.types import Batch, Encoder, PyTree

HELD_OUT = 2048  # instances at most
PASSES = 8  # over the held-out documents, if one pass has fewer instances


class Bert(NamedTuple):
    """An encoder and its two heads."""

    shape: models.BertShape
    encoder: Encoder
    mlm: Encoder
    nsp: Encoder


def held_out_batch(corpus: Corpus, masking: Masking, length: int, batch_size: int) -> tuple[Batch, np.ndarray]:
    """Masked instances of held-out documents, always the same ones.

    Args:
        corpus: the held-out documents.
        masking: whose shares are used, with masks of its seed.
        length: L, in tokens.
        batch_size: the number of rows is a multiple of it, unless there are fewer.

    Returns:
        A masked batch of N rows as NumPy arrays, and int32[N, P]: the true word before each masked one.
    """
    plans = [instances.plan(corpus, length=length, seed=masking.seed, epoch=epoch) for epoch in range(PASSES)]
    rows = np.concatenate(plans)[:HELD_OUT]
    rows = rows[: max(len(rows) // batch_size * batch_size, min(len(rows), batch_size))]
    rows = rows[: max(len(rows) // sharding.data_devices(), 1) * sharding.data_devices()]
    seen = instances.assemble(corpus, rows, length)
    numbers = {"example": np.arange(len(rows), dtype=np.int32), "epoch": np.zeros(len(rows), np.int32)}
    fixed = dataclasses.replace(masking, dupe_factor=1)
    masked = fixed(jax.random.key(masking.seed), **jax.tree.map(jnp.asarray, seen | numbers))
    batch = {name: np.asarray(sharding.gather(value)) for name, value in masked.items()}
    before = np.take_along_axis(seen["tokens"], np.maximum(batch["positions"] - 1, 0), axis=1)
    return batch, before


def masked_figures(parts: Bert, params: PyTree, batch: Batch, batch_size: int) -> dict[str, float]:
    """MLM accuracy, perplexity and NSP accuracy of a masked batch, in pieces of `batch_size` rows.

    Returns:
        Per cent, but for the perplexity; each word, and each pair of segments, counts alike.
    """
    score = _compiled_score(parts)
    totals: dict[str, float] = {"words": 0.0, "mlm_loss": 0.0, "mlm_accuracy": 0.0, "nsp_accuracy": 0.0}
    count = len(batch["tokens"])
    for start in range(0, count, batch_size):
        piece = {name: place(values[start : start + batch_size], split=True) for name, values in batch.items()}
        found = {name: float(value) for name, value in score(params, piece).items()}
        words = float(np.sum(batch["weights"][start : start + batch_size]))
        totals["words"] += words
        for name in ("mlm_loss", "mlm_accuracy"):
            totals[name] += words * found[name]
        totals["nsp_accuracy"] += found["nsp_accuracy"] * len(batch["tokens"][start : start + batch_size]) / count
    return {
        "mlm_accuracy": totals["mlm_accuracy"] / totals["words"],
        "perplexity": float(np.exp(totals["mlm_loss"] / totals["words"])),
        "nsp_accuracy": totals["nsp_accuracy"],
    }


def counted_baselines(train: Corpus, batch: Batch, before: np.ndarray) -> dict[str, dict[str, float]]:
    """What the most frequent word, and the most frequent successor, get right on a held-out batch.

    Returns:
        Rows of the results table: `{"unigram": {"mlm_accuracy"}, "bigram": {...}, "chance": {"nsp_accuracy"}}`, in per
        cent; chance is the more frequent of the two answers.
    """
    documents = (train.tokens[train.sentences[a] : train.sentences[b]] for a, b in train.documents)
    tokens = np.concatenate([np.asarray(document) for document in documents])
    found = ngrams.ngram_accuracies(tokens, len(train.vocabulary), before, batch["targets"], batch["weights"])
    share = 100 * float(np.mean(batch["is_random"]))
    rows = {name: {"mlm_accuracy": value} for name, value in found.items()}
    return rows | {"majority": {"nsp_accuracy": max(share, 100 - share)}}


def fill(
    parts: Bert, params: PyTree, vocabulary: Vocabulary, sentences: Sequence[str], top: int = 5
) -> list[list[Filled]]:
    """`fill_mask` of each sentence."""
    predict = functools.partial(_compiled_logits(parts), params)
    return [fill_mask(predict, vocabulary, text, longest=parts.shape.positions, top=top) for text in sentences]


def fitting(sentences: Sequence[str], vocabulary: Vocabulary, longest: int) -> list[str]:
    """Those sentences that a model of `longest` positions can read whole."""
    ids = encode(tokenizer(vocabulary), sentences)
    return [sentence for sentence, words in zip(sentences, ids, strict=True) if len(words) + 2 <= longest]


@functools.lru_cache(maxsize=8)
def _compiled_score(parts: Bert):
    @jax.jit
    def score(params, batch):
        _, figures = method.score(
            parts.encoder, parts.mlm, parts.nsp, params, batch, word_table=models.word_table, train=False
        )
        return figures

    return score


@functools.lru_cache(maxsize=8)
def _compiled_logits(parts: Bert):
    @jax.jit
    def logits(params, tokens, segments, lengths, positions):
        outputs, _ = parts.encoder.apply(params["encoder"], {}, tokens, segments, lengths, train=False)
        hidden = method.take_positions(outputs["tokens"], positions)
        return parts.mlm.apply(params["mlm"], {}, hidden, models.word_table(params["encoder"]), train=False)[0]

    return logits
