"""BERT: a batch or an encoder that does not fit is refused while it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import optim, sharding
from ssljax.methods.bert import bert
from ssljax.train.state import init_state
from ssljax.types import BadInputError, Encoder
from tests.methods.test_bert import BATCH, LENGTH, a_batch, start, toy_encoder, toy_heads, toy_method, word_table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": None}, "lacks positions"),
        ({"targets": None, "weights": None}, "lacks targets, weights"),
        ({"tokens": np.zeros(BATCH, np.int32)}, r"tokens \(8,\) must be"),
        ({"segments": np.zeros((BATCH, 3), np.int32)}, r"segments has shape \(8, 3\)"),
        ({"weights": np.zeros((BATCH, 3), np.float32)}, r"weights has shape \(8, 3\)"),
        ({"lengths": np.zeros(3, np.int32)}, r"lengths has shape \(3,\)"),
        ({"tokens": np.zeros((BATCH, LENGTH), np.float32)}, "tokens is float32"),
    ],
)
def test_a_batch_that_is_not_masked_or_does_not_fit_is_refused(change, message):
    method = toy_method()
    params, aux = start(method)
    batch = {name: array for name, array in (a_batch() | change).items() if array is not None}
    with pytest.raises(BadInputError, match=message):
        jax.jit(method.loss)(params, aux, batch, jax.random.key(0), 0)
    with pytest.raises(BadInputError, match=message):
        method.init(jax.random.key(0), batch)


def test_an_encoder_that_does_not_fit_is_refused():
    toy = toy_encoder()

    def with_stats(key, *inputs):
        return toy.init(key, *inputs)[0], {"mean": jnp.zeros(3)}

    def tokens_only(*inputs, **options):
        outputs, stats = toy.apply(*inputs, **options)
        return outputs["tokens"], stats

    for encoder, message in (
        (Encoder(with_stats, toy.apply), "batch statistics"),
        (Encoder(toy.init, tokens_only), "pooled"),
    ):
        with pytest.raises(BadInputError, match=message):
            bert(encoder, *toy_heads(), word_table=word_table).init(jax.random.key(0), a_batch())


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    batch = {name: array[:6] for name, array in a_batch().items()}
    with (
        sharding.use_mesh(sharding.make_mesh(4)),
        pytest.raises(BadInputError, match="batch_size=6 does not divide over the 4 devices"),
    ):
        init_state(toy_method(), optim.sgd(0.1), lambda key, **batch: batch, batch, seed=0)
