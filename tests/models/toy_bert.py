"""A small BERT with weights off their initial zeros and ones, and inputs for it."""

import dataclasses
import functools

import jax
import numpy as np

from ssljax.models.bert import BertShape, bert

SMALL = BertShape(vocab_size=50, hidden=16, layers=2, heads=4, intermediate=24, positions=12)
STILL = dataclasses.replace(SMALL, dropout=0.0, attention_dropout=0.0)


def random_inputs(size=8, length=10, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, SMALL.vocab_size, (size, length)).astype(np.int32)
    segments = rng.integers(0, 2, (size, length)).astype(np.int32)
    return tokens, segments, rng.integers(1, length + 1, size).astype(np.int32)


@functools.cache
def parameters():
    """NumPy's, so that a first call within a trace or a mesh is like any other."""
    shapes, _ = jax.eval_shape(bert(SMALL).init, jax.random.key(0), *random_inputs())
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        return np.float32(path[-1].key == "scale") + 0.2 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
