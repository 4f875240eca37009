"""BERT against itself: remat and scan, devices, bfloat16, dropout, the first weights."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.models import bert_layers
from ssljax.models.bert import bert, classifier, mlm_head, nsp_head, span_head, word_table
from ssljax.types import BadInputError
from tests.models.toy_bert import SMALL, STILL, parameters, random_inputs

HIDDEN = np.random.default_rng(0).normal(size=(8, 3, SMALL.hidden)).astype(np.float32)
OPTIONS = [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}]


def losses_and_gradients(encoder, params, given, seed=None):
    """A scalar that reads both outputs, its gradients, and the outputs."""
    key = None if seed is None else jax.random.key(seed)

    def loss(params):
        outputs, _ = encoder.apply(params, {}, *given, train=True, key=key)
        weights = jnp.cos(jnp.arange(outputs["tokens"].shape[-1]))
        return (outputs["tokens"] @ weights).mean() + (outputs["pooled"] @ weights).mean(), outputs

    (value, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((value, gradients, outputs))


def assert_near(found, wanted, tolerance):
    """Every leaf within `tolerance` of its own scale."""

    def near(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 0.1))

    jax.tree.map(near, found, wanted)


@functools.cache
def alone(shape, seed=None):
    """Without options and without a mesh."""
    with jax.set_mesh(jax.make_mesh((), ())):
        return losses_and_gradients(bert(shape), parameters(), random_inputs(), seed)


@pytest.mark.parametrize(
    ("shape", "options"), [(STILL, OPTIONS[0]), (STILL, OPTIONS[1]), (SMALL, OPTIONS[2])], ids=["scan", "remat", "both"]
)
def test_remat_and_scan_change_no_value(shape, options):
    seed = 5 if shape.dropout else None
    found = losses_and_gradients(bert(shape, **options), parameters(), random_inputs(), seed)
    assert_near(found, alone(shape, seed), 1e-6)


def test_remat_and_scan_share_their_parameters():
    trees = [bert(SMALL, **options).init(jax.random.key(0), *random_inputs())[0] for options in [{}, *OPTIONS]]
    for tree in trees[1:]:
        jax.tree.map(np.testing.assert_array_equal, tree, trees[0])


def test_the_path_with_attention_dropout_is_the_one_without_at_rate_zero():
    # the rate is above 0, so the path is the other one, and below what float32 tells from 0
    barely = dataclasses.replace(STILL, attention_dropout=1e-30)
    found = losses_and_gradients(bert(barely), parameters(), random_inputs(), seed=0)
    assert_near(found, alone(STILL), 1e-6)


def on_devices(shape, options):
    given = sharding.shard(jax.tree.map(jnp.asarray, random_inputs()))
    params = sharding.gather(jax.tree.map(jnp.asarray, parameters()))
    return losses_and_gradients(bert(shape, **options), params, given, seed=5)


def test_values_gradients_and_dropout_on_any_number_of_devices(each_mesh):
    assert_near(on_devices(SMALL, OPTIONS[0]), alone(SMALL, 5), 2e-6)


def test_every_layer_apart_and_fused_attention_on_eight_devices():
    shape = dataclasses.replace(SMALL, attention_dropout=0.0)
    with sharding.use_mesh(sharding.make_mesh(8)):
        found = on_devices(shape, {})
    assert_near(found, alone(shape, 5), 2e-6)


def run_heads(hidden, table):
    pooled = hidden[:, 0]
    given = {"mlm": (mlm_head(SMALL), hidden, table), "nsp": (nsp_head(SMALL), pooled)}
    given |= {"classes": (classifier(3), pooled), "spans": (span_head(), hidden)}
    outputs = {}
    for name, (head, *inputs) in given.items():
        params, _ = head.init(jax.random.key(0), *inputs)
        outputs[name], _ = head.apply(params, {}, *inputs, train=True, key=jax.random.key(4))
    return outputs


@functools.cache
def heads_alone():
    with jax.set_mesh(jax.make_mesh((), ())):
        return jax.device_get(run_heads(HIDDEN, word_table(parameters())))


def test_heads_on_any_number_of_devices(each_mesh):
    table = sharding.gather(jnp.asarray(word_table(parameters())))
    found = jax.device_get(jax.jit(run_heads)(sharding.shard(HIDDEN), table))
    shapes = {"mlm": (8, 3, 50), "nsp": (8, 2), "classes": (8, 3), "spans": (8, 3, 2)}
    assert jax.tree.map(np.shape, found) == shapes
    assert_near(found, heads_alone(), 2e-6)


def test_bfloat16_keeps_float32_parameters_and_outputs():
    shape, given = SMALL, random_inputs()
    exact = alone(shape, 5)
    half = losses_and_gradients(bert(shape, dtype=jnp.bfloat16, scan=True), parameters(), given, 5)
    params, _ = bert(shape, dtype=jnp.bfloat16).init(jax.random.key(0), *given)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, half))} == {np.dtype(np.float32)}
    np.testing.assert_allclose(half[2]["tokens"], exact[2]["tokens"], atol=0.06)
    # not the exact ones again
    assert np.abs(half[2]["tokens"] - exact[2]["tokens"]).max() > 1e-3
    for a, b in zip(jax.tree.leaves(half[1]), jax.tree.leaves(exact[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.1 * max(np.abs(b).max(), 1e-2))


def test_bfloat16_softmax_and_statistics_are_float32():
    params = parameters()
    tokens, segments, lengths = random_inputs()

    def run(params, hidden):
        outputs, _ = bert(SMALL, dtype=jnp.bfloat16).apply(
            params, {}, tokens, segments, lengths, train=True, key=jax.random.key(0)
        )
        head = mlm_head(SMALL, dtype=jnp.bfloat16)
        table = word_table(params)
        logits, _ = head.apply(head.init(jax.random.key(0), hidden, table)[0], {}, hidden, table, train=True)
        return outputs, logits

    hidden = jnp.ones((2, 3, SMALL.hidden))
    jaxpr = jax.make_jaxpr(run)(params, hidden)
    kinds = {}
    for eqn in equations(jaxpr.jaxpr):
        if eqn.invars:
            kinds.setdefault(eqn.primitive.name, set()).add((eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype))
    wide, half = np.dtype(np.float32), jnp.dtype(jnp.bfloat16)
    for name in ("exp", "rsqrt"):
        assert kinds[name] == {(wide, wide)}, name
    # layers in bfloat16; scores and vocabulary to float32; the pooler and the segments are float32
    assert kinds["dot_general"] == {(half, half), (half, wide), (wide, wide)}
    x = jnp.asarray(1000 + np.random.default_rng(0).normal(size=(4, 64)), jnp.bfloat16)
    norm = bert_layers.LayerNorm(1e-12)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    np.testing.assert_allclose(jnp.asarray(norm.apply(norm.init(jax.random.key(0), x), x)), exact, atol=1e-3)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean(rate):
    x = jnp.ones((200, 300))
    y = np.asarray(bert_layers.dropout(jax.random.key(0), x, rate))
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    # four standard errors
    assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / y.size)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout"])
def test_each_rate_acts_in_training_only_and_follows_the_key(name):
    shape = dataclasses.replace(STILL, **{name: 0.3})
    given = random_inputs()
    run = jax.jit(functools.partial(bert(shape).apply, parameters(), {}, *given), static_argnames="train")
    first, again, other = (run(train=True, key=jax.random.key(seed))[0]["tokens"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    still, _ = bert(STILL).apply(parameters(), {}, *given, train=True)
    quiet, _ = run(train=False, key=jax.random.key(0))
    np.testing.assert_allclose(quiet["tokens"], still["tokens"], atol=1e-6)
    assert np.abs(first - still["tokens"]).max() > 0.01


def test_training_with_dropout_needs_a_key():
    with pytest.raises(BadInputError, match="needs a key"):
        bert(SMALL).apply(parameters(), {}, *random_inputs(), train=True)
    head = classifier(2)
    params, _ = head.init(jax.random.key(0), jnp.ones((2, 4)))
    with pytest.raises(BadInputError, match="needs a key"):
        head.apply(params, {}, jnp.ones((2, 4)), train=True)


@pytest.mark.parametrize(("positions", "hidden", "std"), [(64, 128, 0.05), (7, 6, 0.02), (512, 64, 1.0)])
def test_a_position_table_that_starts_as_waves(positions, hidden, std):
    found = np.asarray(bert_layers.waves(std)(jax.random.key(0), (positions, hidden)))
    for place in range(positions):
        for wave in range(hidden // 2):
            angle = place / 10_000 ** (2 * wave / hidden)
            wanted = [math.sin(angle) * std * math.sqrt(2), math.cos(angle) * std * math.sqrt(2)]
            np.testing.assert_allclose(found[place, [wave, wave + hidden // 2]], wanted, rtol=0, atol=2e-4 * std)
    assert np.sqrt(np.square(found).mean()) == pytest.approx(std, rel=1e-4)


def test_only_the_position_table_starts_differently():
    shape = bert_layers.BertShape(vocab_size=50, hidden=8, layers=1, heads=2, intermediate=16, positions=6)
    rows = jnp.ones((1, 4), jnp.int32)
    normal, wavy = (
        bert(dataclasses.replace(shape, initial_positions=name)).init(jax.random.key(0), rows, rows, rows[0, :1])[0]
        for name in ("normal", "sinusoidal")
    )
    differing = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), normal, wavy)
    changed = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(differing) if leaf]
    assert len(changed) == 1
    assert "position" in changed[0]
    with pytest.raises(BadInputError, match="initial_positions='learnt' is unknown; choose one of normal, sinusoidal"):
        bert(dataclasses.replace(shape, initial_positions="learnt"))
