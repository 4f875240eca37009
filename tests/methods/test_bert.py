"""BERT: the loss of a masked batch by hand, which values count, and the same on every number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.methods import bert as method_of
from ssljax.methods.bert import BertAux, bert
from ssljax.types import Encoder

BATCH, LENGTH, COUNT, WIDTH, WORDS = 8, 10, 4, 6, 12


def toy_encoder(drop=0.0):
    """Embeddings summed with the mean of the real tokens, and a dropout of whole embeddings."""

    def init(key, tokens, segments, lengths):
        del segments, lengths
        assert tokens.ndim == 2
        word, segment, pool = jax.random.split(key, 3)
        return {
            "word": jax.random.normal(word, (WORDS, WIDTH)),
            "segment": jax.random.normal(segment, (2, WIDTH)),
            "pool": jax.random.normal(pool, (WIDTH, WIDTH)),
        }, {}

    def apply(params, stats, tokens, segments, lengths, *, train, key=None):
        hidden = jax.nn.one_hot(tokens, WORDS) @ params["word"] + jax.nn.one_hot(segments, 2) @ params["segment"]
        if train and drop:
            assert key is not None
            keep = sharding.shard(jax.random.bernoulli(key, 1 - drop, tokens.shape))
            hidden = jnp.where(keep[..., None], hidden / (1 - drop), 0.0)
        context = method_of.mean_of_tokens(hidden, lengths)
        hidden = jnp.tanh(hidden + context[:, None, :])
        return {"tokens": hidden, "pooled": jnp.tanh(hidden[:, 0] @ params["pool"])}, stats

    return Encoder(init, apply)


def toy_heads():
    def mlm_init(key, hidden, table):
        del key
        assert hidden.shape[1:] == (COUNT, WIDTH)
        return {"bias": jnp.linspace(-1, 1, table.shape[0])}, {}

    def mlm_apply(params, stats, hidden, table, *, train, key=None):
        del train, key
        return hidden @ table.T + params["bias"][None, None], stats

    def nsp_init(key, pooled):
        return {"kernel": jax.random.normal(key, (pooled.shape[1], 2))}, {}

    def nsp_apply(params, stats, pooled, *, train, key=None):
        del train, key
        return pooled @ params["kernel"], stats

    return Encoder(mlm_init, mlm_apply), Encoder(nsp_init, nsp_apply)


def word_table(params):
    return params["word"]


@functools.cache
def toy_method(drop=0.0):
    return bert(toy_encoder(drop), *toy_heads(), word_table=word_table)


def a_batch(seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, LENGTH + 1, BATCH)
    batch = {
        "tokens": rng.integers(0, WORDS, (BATCH, LENGTH)) * (np.arange(LENGTH) < lengths[:, None]),
        "segments": rng.integers(0, 2, (BATCH, LENGTH)),
        "lengths": lengths,
        "is_random": rng.integers(0, 2, BATCH),
        "positions": np.stack([rng.permutation(6)[:COUNT] for _ in range(BATCH)]),
        "targets": rng.integers(0, WORDS, (BATCH, COUNT)),
    }
    # uneven, so that a mean of the devices' means would differ
    weights = np.arange(COUNT) < rng.integers(1, COUNT + 1, BATCH)[:, None]
    return {name: array.astype(np.int32) for name, array in batch.items()} | {"weights": weights.astype(np.float32)}


def start(method, batch=None):
    init = jax.jit(method.init, out_shardings=sharding.replicated())
    return init(jax.random.key(0), jax.tree.map(jnp.asarray, batch or a_batch()))


@functools.cache
def compiled(method, devices):
    del devices  # one program a mesh
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True), out_shardings=sharding.replicated())


def step_of(method, params, aux, batch, key=1):
    grad = compiled(method, sharding.data_devices() if sharding.has_mesh() else None)
    (loss, (_, metrics)), gradients = grad(params, aux, sharding.shard_batch(batch), jax.random.key(key), 0)
    return jax.tree.map(np.asarray, (loss, metrics, gradients))


def log_softmax(scores):
    scores = scores - scores.max()
    return scores - np.log(np.exp(scores).sum())


def by_hand(params, batch):
    """Example by example and slot by slot in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    encoder, nll, right, nsp, nsp_right, features = params["encoder"], [], [], [], [], []
    for i, length in enumerate(batch["lengths"]):
        hidden = encoder["word"][batch["tokens"][i]] + encoder["segment"][batch["segments"][i]]
        hidden = np.tanh(hidden + hidden[:length].mean(0))
        features.append(hidden[:length].mean(0))
        for slot in range(COUNT):
            if batch["weights"][i, slot]:
                scores = hidden[batch["positions"][i, slot]] @ encoder["word"].T + params["mlm"]["bias"]
                nll.append(-log_softmax(scores)[batch["targets"][i, slot]])
                right.append(scores.argmax() == batch["targets"][i, slot])
        scores = np.tanh(hidden[0] @ encoder["pool"]) @ params["nsp"]["kernel"]
        nsp.append(-log_softmax(scores)[batch["is_random"][i]])
        nsp_right.append(scores.argmax() == batch["is_random"][i])
    mlm = sum(nll) / (len(nll) + 1e-5)
    metrics = {
        "loss": mlm + np.mean(nsp),
        "mlm_loss": mlm,
        "mlm_accuracy": 100 * np.mean(right),
        "perplexity": np.exp(mlm),
        "nsp_loss": np.mean(nsp),
        "nsp_accuracy": 100 * np.mean(nsp_right),
        "tokens_per_example": batch["lengths"].mean(),
        "padding": 100 * (1 - batch["lengths"].sum() / batch["tokens"].size),
    }
    return metrics, np.stack(features)


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_metrics_by_hand_on_every_mesh(each_mesh, seed):
    method, batch = toy_method(), a_batch(seed)
    params, aux = start(method)
    loss, metrics, _ = step_of(method, params, aux, batch)
    reference, features = by_hand(params, batch)
    assert metrics.keys() == reference.keys()
    for name, value in reference.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(loss, metrics["loss"])
    found = jax.jit(method.features)(params, aux, sharding.shard_batch(batch))
    np.testing.assert_allclose(found["backbone"], features, rtol=1e-5, atol=1e-6)
    assert found["embedding"].shape == (BATCH, WIDTH)


@functools.cache
def gradients(devices):
    with sharding.use_mesh(devices and sharding.make_mesh(devices)):
        method = toy_method(drop=0.3)
        params, aux = start(method)
        return step_of(method, params, aux, a_batch())[2]


@pytest.mark.parametrize("devices", [2, 8])
def test_gradients_do_not_depend_on_the_devices(devices):
    for a, b in zip(jax.tree.leaves(gradients(devices)), jax.tree.leaves(gradients(None)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_loss_is_the_difference_quotient():
    method, batch = toy_method(), a_batch()
    params, aux = start(method)
    _, _, gradient = step_of(method, params, aux, batch)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)
    there, back = (
        jax.tree.map(lambda p, w, s=s: np.asarray(p, np.float64) + s * w, params, way) for s in (1e-4, -1e-4)
    )
    quotient = (by_hand(there, batch)[0]["loss"] - by_hand(back, batch)[0]["loss"]) / 2e-4
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: np.sum(g * w), gradient, way)))
    np.testing.assert_allclose(slope, quotient, rtol=1e-4)


def test_empty_slots_and_padding_are_of_no_matter():
    method, batch = toy_method(), a_batch()
    params, aux = start(method)
    other = dict(batch)
    empty = batch["weights"] == 0
    other["targets"] = np.where(empty, 7, batch["targets"]).astype(np.int32)
    other["positions"] = np.where(empty, 0, batch["positions"]).astype(np.int32)
    other["tokens"] = np.where(np.arange(LENGTH) < batch["lengths"][:, None], batch["tokens"], 5).astype(np.int32)
    for a, b in zip(*(jax.tree.leaves(step_of(method, params, aux, b)) for b in (batch, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_dropout_goes_by_the_key_and_is_off_where_not_training():
    method, batch = toy_method(drop=0.5), a_batch()
    params, aux = start(method)
    first, again, other = (step_of(method, params, aux, batch, key)[0] for key in (1, 1, 2))
    assert first == again != other
    _, metrics = method_of.score(
        toy_encoder(0.5), *toy_heads(), params, sharding.shard_batch(batch), word_table=word_table, train=False
    )
    np.testing.assert_allclose(metrics["loss"], by_hand(params, batch)[0]["loss"], rtol=1e-5)


def test_it_learns_a_batch_by_heart():
    method, batch = toy_method(), a_batch()
    params, aux = start(method)
    before = step_of(method, params, aux, batch)[0]
    for _ in range(60):
        slopes = step_of(method, params, aux, batch)[2]
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
    assert step_of(method, params, aux, batch)[0] < 0.6 * before
    assert method.after_update(params, aux, jnp.zeros((), jnp.int32)) == (params, BertAux())


def test_only_masked_positions_reach_the_vocabulary():
    encoder, (_, nsp_head) = toy_encoder(), toy_heads()
    seen = []

    def apply(params, stats, hidden, table, *, train, key=None):
        seen.append(hidden.shape)
        return toy_heads()[0].apply(params, stats, hidden, table, train=train, key=key)

    method = bert(encoder, Encoder(toy_heads()[0].init, apply), nsp_head, word_table=word_table)
    params, aux = start(method)
    step_of(method, params, aux, a_batch())
    assert set(seen) == {(BATCH, COUNT, WIDTH)}
