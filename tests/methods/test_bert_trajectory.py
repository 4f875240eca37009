"""Twenty steps of BERT's pre-training against transformers' model under BERT's AdamW written out in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import optim, sharding
from ssljax.interop import huggingface_names
from ssljax.methods.bert import BertAux, bert
from ssljax.models import bert as models
from ssljax.train.guard import Guard
from ssljax.train.state import TrainState
from ssljax.train.step import compile_step
from tests.oracles import bert_oracles as official
from tests.oracles import expected


def run(devices=None):
    """Losses and gradient norms of every step, and the last weights by transformers' names."""
    *sizes, _, eps = official.CASES["tanh"]
    shape = models.BertShape(*sizes, dropout=0.0, attention_dropout=0.0, activation="gelu_tanh", eps=eps)
    method = bert(models.bert(shape), models.mlm_head(shape), models.nsp_head(shape), word_table=models.word_table)
    rate = optim.linear_with_warmup(official.RATE, official.STEPS, official.WARMUP)
    optimizer = optim.bert_adamw(rate, weight_decay=official.DECAY, clip=official.CLIP)
    names = [name for name in expected("bert_trajectory") if name.startswith("weight ")]
    given = {name.removeprefix("weight "): expected("bert_trajectory")[name].shape for name in names}
    start = {name: official.weight("tanh", name, size) for name, size in given.items()}
    metrics = []
    with sharding.use_mesh(None if devices is None else sharding.make_mesh(devices)):
        params = huggingface_names.from_huggingface(start, shape)
        state = TrainState(jnp.int32(0), params, BertAux(), optimizer.init(params), jax.random.key(0), Guard.new())
        state = sharding.gather(state)
        step = compile_step(method, lambda key, **batch: batch, optimizer)
        for number in range(official.STEPS):
            batch = sharding.shard(jax.tree.map(jnp.asarray, official.batch("tanh", number)))
            state, found = step(state, batch)
            metrics.append((float(found["loss"]), float(found["grad_norm"])))
    return np.array(metrics), huggingface_names.to_huggingface(jax.device_get(state.params), shape)


def assert_official(metrics, weights):
    want = expected("bert_trajectory")
    np.testing.assert_allclose(metrics[:, 0], want["losses"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(metrics[:, 1], want["norms"], rtol=1e-3)
    for name, value in weights.items():
        np.testing.assert_allclose(value, want[f"weight {name}"], rtol=0, atol=1e-3, err_msg=name)


def test_twenty_steps_are_those_of_pytorch():
    assert_official(*run())


@pytest.mark.slow
def test_twenty_steps_on_four_devices_are_those_of_pytorch():
    assert_official(*run(devices=4))
