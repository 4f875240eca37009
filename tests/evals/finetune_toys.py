"""A toy text encoder, its heads and tasks that it can learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.evals.finetune import FinetuneConfig, finetune
from ssljax.models import bert, bert_layers
from ssljax.types import Encoder

WORDS, WIDTH = 30, 8
CONFIG = FinetuneConfig(epochs=3, batch_size=8, learning_rate=0.02, seeds=2)
OUTPUTS = {"classification": 2, "regression": 1, "span": 2}


@functools.cache
def toy():
    """Word embeddings, and their mean as what is pooled."""

    def apply(params, stats, tokens, segments, lengths, *, train, key=None):
        rows = bert_layers.rows_of(params["words"], tokens)
        real = (jnp.arange(tokens.shape[1])[None] < lengths[:, None])[..., None]
        # what is beyond a row's end must not matter
        rows = jnp.where(real, rows, 7.0)
        return {"tokens": rows, "pooled": jnp.where(real, rows, 0).sum(1) / lengths[:, None]}, stats

    return Encoder(lambda key, *inputs: ({"words": jax.random.normal(key, (WORDS, WIDTH))}, {}), apply)


@functools.cache
def head(kind):
    return bert.span_head() if kind == "span" else bert.classifier(OUTPUTS[kind], dropout=0.0)


def task(kind, count=37, length=70, seed=0, longest=60):
    """Rows whose label shows in their words: word 1 begins the span, the share of words above 15 is the number."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest, count).astype(np.int32)
    tokens = rng.integers(2, WORDS, (count, length)).astype(np.int32)
    tokens[np.arange(length)[None] >= lengths[:, None]] = 0
    share = (tokens > 15).sum(1) / lengths
    label = (share > 0.5).astype(np.int32) if kind == "classification" else (5 * share).astype(np.float32)
    if kind == "span":
        label = np.stack([rng.integers(0, lengths), lengths - 1], 1).astype(np.int32)
        tokens[np.arange(count), label[:, 0]] = 1
    segments = (tokens > 20).astype(np.int32)
    return {"tokens": tokens, "segments": segments, "lengths": lengths, "label": label}


def toy_params(seed=0):
    return {"words": np.random.default_rng(seed).normal(size=(WORDS, WIDTH)).astype(np.float32)}


def tune(kind, train=None, dev=None, config=CONFIG, params=None, say=None, seed=0):
    train, dev = train or task(kind), dev or task(kind, 21, seed=1)
    params, say = params or toy_params(), say or silent
    return finetune(toy(), head(kind), params, train, dev, kind=kind, config=config, say=say, seed=seed)


def silent(sentence: str) -> None:
    """Drop it."""
