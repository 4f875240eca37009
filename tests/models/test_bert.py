"""BERT against transformers, and against itself: options, devices, dtypes, padding, dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.interop import huggingface_names
from ssljax.models import bert_layers
from ssljax.models.bert import (
    SIZES,
    BertShape,
    attention_maps,
    bert,
    classifier,
    mlm_head,
    nsp_head,
    span_head,
    word_table,
)
from ssljax.types import BadInputError
from tests.oracles import bert_oracles, expected

SMALL = BertShape(vocab_size=50, hidden=16, layers=2, heads=4, intermediate=24, positions=12)
STILL = dataclasses.replace(SMALL, dropout=0.0, attention_dropout=0.0)
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
HIDDEN = bert_oracles.random("hidden", (8, 3, SMALL.hidden))
OPTIONS = [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}]


def official(case):
    """The oracle's shape, weights as our parameters, and batch."""
    *sizes, activation, eps = bert_oracles.CASES[case]
    shape = BertShape(*sizes, dropout=0.0, attention_dropout=0.0, activation=ACTIVATIONS[activation], eps=eps)
    gradients = {n.removeprefix("gradient "): v for n, v in expected(f"bert_{case}").items() if n.startswith("grad")}
    state = {name: bert_oracles.weight(case, name, value.shape) for name, value in gradients.items()}
    return shape, huggingface_names.from_huggingface(state, shape), jax.tree.map(jnp.asarray, bert_oracles.batch(case))


def inputs(batch):
    return batch["tokens"], batch["segments"], batch["lengths"]


def random_inputs(size=8, length=10, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, SMALL.vocab_size, (size, length)).astype(np.int32)
    segments = rng.integers(0, 2, (size, length)).astype(np.int32)
    return tokens, segments, rng.integers(1, length + 1, size).astype(np.int32)


@functools.cache
def parameters(shape=SMALL):
    """Initial parameters moved off their zeros and ones."""
    params, _ = bert(shape).init(jax.random.key(0), *random_inputs())
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.device_get(jax.tree.unflatten(tree, moved))


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


@pytest.mark.parametrize("case", bert_oracles.CASES)
def test_outputs_losses_and_gradients_are_those_of_transformers(case):
    shape, params, batch = official(case)
    want = expected(f"bert_{case}")

    def loss(params):
        outputs, _ = bert(shape).apply(params["encoder"], {}, *inputs(batch), train=True)
        hidden = outputs["tokens"][jnp.arange(bert_oracles.BATCH)[:, None], batch["positions"]]
        mlm, _ = mlm_head(shape).apply(params["mlm"], {}, hidden, word_table(params["encoder"]), train=True)
        nsp, _ = nsp_head(shape).apply(params["nsp"], {}, outputs["pooled"], train=True)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(mlm), batch["targets"][..., None], axis=2)[..., 0]
        second = -jnp.take_along_axis(jax.nn.log_softmax(nsp), batch["is_random"][:, None], axis=1).mean()
        value = (batch["weights"] * nll).sum() / batch["weights"].sum() + second
        return value, outputs | {"mlm": mlm, "nsp": nsp}

    (value, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(value, want["loss"], rtol=0, atol=1e-5)
    for name in ("mlm", "nsp", "tokens", "pooled"):
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=1e-4)
    for name, gradient in huggingface_names.to_huggingface(gradients, shape).items():
        wanted = want[f"gradient {name}"]
        # a key's bias moves no probability: its gradient is rounding, here and there
        scale = max(np.abs(wanted).max(), 1e-2)
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("case", bert_oracles.CASES)
def test_attention_maps_are_those_of_transformers(case):
    shape, params, batch = official(case)
    maps = jax.jit(attention_maps, static_argnums=1)(params["encoder"], shape, *inputs(batch))
    np.testing.assert_allclose(maps, expected(f"bert_{case}")["attention"], atol=1e-5)
    np.testing.assert_allclose(maps.sum(-1), np.ones(maps.shape[:-1]), atol=1e-5)
    beyond = np.arange(maps.shape[-1]) >= np.asarray(batch["lengths"])[:, None]
    assert (np.moveaxis(np.asarray(maps), 1, 0)[np.nonzero(beyond)[0], ..., np.nonzero(beyond)[1]] == 0).all()


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


def test_tokens_beyond_the_length_change_nothing_before_it():
    tokens, segments, lengths = random_inputs()
    beyond = np.arange(tokens.shape[1]) >= lengths[:, None]
    run = jax.jit(lambda *given: bert(SMALL).apply(parameters(), {}, *given, train=False)[0])
    first = run(tokens, segments, lengths)
    second = run(np.where(beyond, 7, tokens), np.where(beyond, 1, segments), lengths)
    np.testing.assert_allclose(first["pooled"], second["pooled"], atol=1e-6)
    np.testing.assert_allclose(
        np.where(beyond[..., None], 0, first["tokens"]), np.where(beyond[..., None], 0, second["tokens"]), atol=1e-6
    )


def test_a_row_without_tokens_is_finite():
    tokens, segments, lengths = random_inputs()
    found, _ = jax.jit(functools.partial(bert(STILL, scan=True).apply, train=True))(
        parameters(), {}, tokens, segments, 0 * lengths
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_an_id_outside_the_table_is_nan_and_id_zero_is_a_word():
    tokens, segments, lengths = random_inputs(2)
    lengths = np.full_like(lengths, tokens.shape[1])
    run = jax.jit(lambda tokens: bert(SMALL).apply(parameters(), {}, tokens, segments, lengths, train=False)[0])
    tokens[0, 3] = SMALL.vocab_size
    outside = np.asarray(run(tokens)["tokens"])
    assert np.isnan(outside[0]).all()
    assert np.isfinite(outside[1]).all()
    zero, one = run(np.zeros_like(tokens)), run(np.zeros_like(tokens) + (np.arange(10) == 4))
    assert np.abs(zero["pooled"] - one["pooled"]).max() > 1e-3


@pytest.mark.parametrize(("size", "count"), [("base", 109_482_240), ("large", 335_141_888)])
def test_the_numbers_of_parameters_are_the_published_ones(size, count):
    shape = SIZES[size]
    params, _ = jax.eval_shape(bert(shape).init, jax.random.key(0), *random_inputs())
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert set(params["layers"]) == {str(i) for i in range(shape.layers)}


def test_the_miniatures_are_the_published_ones():
    sizes = {name: (s.layers, s.hidden, s.heads, s.intermediate) for name, s in SIZES.items()}
    assert sizes["tiny"] == (2, 128, 2, 512)
    assert sizes["mini"] == (4, 256, 4, 1024)
    assert sizes["small"] == (4, 512, 8, 2048)
    assert sizes["medium"] == (8, 512, 8, 2048)


def test_initial_weights_are_truncated_normals_and_plain_norms():
    shape = dataclasses.replace(SMALL, hidden=64, intermediate=256, layers=2)
    params, stats = bert(shape).init(jax.random.key(0), *random_inputs())
    assert stats == {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name in ("bias", "scale"):
            assert (leaf == (name == "scale")).all()
        else:
            # the deviation of a normal that is cut at two of its own
            np.testing.assert_allclose(np.std(leaf), 0.02 * 0.8796, rtol=0.1)
            assert 0.035 < np.abs(leaf).max() <= 0.04
    kernels = [params["layers"][i]["attention"]["query"]["kernel"] for i in "01"]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


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


def test_a_sequence_longer_than_the_table_is_refused():
    given = random_inputs(length=SMALL.positions + 1)
    with pytest.raises(BadInputError, match=r"13 tokens is longer.*positions=12"):
        bert(SMALL).init(jax.random.key(0), *given)
    with pytest.raises(BadInputError, match="13 tokens is longer"):
        bert(SMALL).apply(parameters(), {}, *given, train=False)
    with pytest.raises(BadInputError, match="13 tokens is longer"):
        attention_maps(parameters(), SMALL, *map(jnp.asarray, given))
    whole, _ = bert(SMALL).apply(parameters(), {}, *random_inputs(length=SMALL.positions), train=False)
    assert whole["tokens"].shape == (8, 12, 16)


def test_inputs_of_other_shapes_are_refused():
    tokens, segments, lengths = random_inputs()
    with pytest.raises(BadInputError, match=r"segments \(8, 9\)"):
        bert(SMALL).init(jax.random.key(0), tokens, segments[:, :9], lengths)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "heads=3 does not divide hidden=16"),
        ({"heads": 0}, "heads=0"),
        ({"layers": 0}, "layers=0"),
        ({"activation": "relu"}, "activation='relu'"),
    ],
)
def test_an_impossible_shape_is_refused(changes, said):
    for make in (bert, mlm_head, nsp_head):
        with pytest.raises(BadInputError, match=said):
            make(dataclasses.replace(SMALL, **changes))


def test_a_classifier_without_outputs_is_refused():
    with pytest.raises(BadInputError, match="outputs=0"):
        classifier(0)
