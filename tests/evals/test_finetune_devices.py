"""Which rows are in a batch, how many programs are compiled, and the same values on every number of devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.evals import finetune_steps
from ssljax.evals.finetune import FinetuneConfig, finetune, finetune_seeds, predict
from ssljax.models import bert
from ssljax.types import BadInputError
from tests.evals.finetune_toys import CONFIG, OUTPUTS, WORDS, silent, task, toy, toy_params

SHAPE = bert.BertShape(
    vocab_size=WORDS, hidden=8, layers=1, heads=2, intermediate=16, positions=40, dropout=0.2, attention_dropout=0.2
)


@functools.cache
def small_bert():
    encoder = bert.bert(SHAPE)
    rows = jnp.ones((1, 4), jnp.int32)
    return encoder, jax.device_get(encoder.init(jax.random.key(1), rows, rows, rows[0, :1])[0])


@functools.cache
def dropping(kind):
    return bert.span_head() if kind == "span" else bert.classifier(OUTPUTS[kind], 0.3)


def small(kind, encoder, params):
    """Rows of one length, so that little is compiled."""
    config = FinetuneConfig(epochs=1, batch_size=10, learning_rate=0.01)
    train, dev = task(kind, 25, 16, longest=16), task(kind, 13, 16, seed=1, longest=16)
    return finetune(encoder, dropping(kind), params, train, dev, kind=kind, config=config, say=silent)


@functools.cache
def on_one_device(kind):
    with sharding.use_mesh(sharding.make_mesh(1)):
        return small(kind, toy(), toy_params())


def check_close(found, wanted):
    np.testing.assert_allclose(found["losses"], wanted["losses"], rtol=1e-4)
    np.testing.assert_allclose(found["outputs"], wanted["outputs"], atol=1e-3)


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_the_same_on_any_number_of_devices(kind, each_mesh):
    """Dropout included: 10 rows become 16 on 8 devices, and the last batch has 5."""
    check_close(small(kind, toy(), toy_params()), on_one_device(kind))


@pytest.mark.slow
def test_a_small_bert_without_a_mesh_and_on_four_devices():
    encoder, params = small_bert()
    before = jax.tree.map(np.copy, params)
    found = small("classification", encoder, params)
    with sharding.use_mesh(sharding.make_mesh(4)):
        check_close(found, small("classification", encoder, params))
    jax.tree.map(np.testing.assert_array_equal, before, params)
    assert not np.array_equal(found["params"]["encoder"]["pooler"]["kernel"], params["pooler"]["kernel"])
    again = predict(
        *(encoder, dropping("classification"), found["params"], task("classification", 13, 16, seed=1, longest=16)),
        kind="classification",
        batch_size=5,
    )
    np.testing.assert_allclose(again, found["outputs"], atol=1e-5)


def test_by_length_sees_every_row_once_and_wastes_less():
    train = task("classification", 100)

    def seen(by_length):
        config = FinetuneConfig(epochs=2, batch_size=8, by_length=by_length)
        batches = list(finetune_steps.train_batches(train, config, seed=3))
        weights = [np.asarray(batch["weight"]).astype(bool) for batch in batches]
        rows = [np.asarray(batch["tokens"])[weight] for batch, weight in zip(batches, weights, strict=True)]
        padded = [np.pad(part, [(0, 0), (0, 70 - part.shape[1])]) for part in rows]
        return np.concatenate(padded), sum(batch["tokens"].size for batch in batches)

    (mixed, cost), (sorted_, less) = seen(False), seen(True)
    whole = sorted(map(bytes, np.repeat(train["tokens"], 2, 0)))
    assert sorted(map(bytes, mixed)) == sorted(map(bytes, sorted_)) == whole
    assert not np.array_equal(mixed[:100], mixed[100:])
    assert less < 0.8 * cost
    lengths = [batch["tokens"].shape[1] for batch in finetune_steps.train_batches(train, FinetuneConfig(), seed=0)]
    assert set(lengths) <= {16, 32, 64, 70}


def programs():
    functions: list[Any] = [finetune_steps.step, finetune_steps._outputs]
    return [function._cache_size() for function in functions]


def test_one_program_for_each_length():
    train, dev = task("classification", 64), task("classification", 30, seed=1)
    config = FinetuneConfig(epochs=2, batch_size=8, learning_rate=0.031, seeds=3)
    before = programs()
    finetune_seeds(
        toy(), bert.classifier(2, 0.0), toy_params(), train, dev, kind="classification", config=config, say=silent
    )
    after = programs()
    assert after[0] - before[0] <= 3
    assert after[1] - before[1] <= 3


def test_rows_longer_than_the_position_table_are_refused_even_if_they_are_padding():
    encoder, params = small_bert()
    train, dev = task("classification", 5, 16, longest=10), task("classification", 5, 41, longest=10)
    with pytest.raises(BadInputError, match="a sequence of 41 tokens is longer than the position table"):
        finetune(encoder, dropping("classification"), params, train, dev, kind="classification", config=CONFIG)
