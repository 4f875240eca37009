"""BERT against transformers; its sizes, initial weights and padding; what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.interop import huggingface_names
from ssljax.models.bert import SIZES, BertShape, attention_maps, bert, classifier, mlm_head, nsp_head, word_table
from ssljax.types import BadInputError
from tests.models.toy_bert import SMALL, STILL, parameters, random_inputs
from tests.oracles import bert_oracles, expected

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def official(case):
    """The oracle's shape, weights as our parameters, and batch."""
    *sizes, activation, eps = bert_oracles.CASES[case]
    shape = BertShape(*sizes, dropout=0.0, attention_dropout=0.0, activation=ACTIVATIONS[activation], eps=eps)
    gradients = {n.removeprefix("gradient "): v for n, v in expected(f"bert_{case}").items() if n.startswith("grad")}
    state = {name: bert_oracles.weight(case, name, value.shape) for name, value in gradients.items()}
    return shape, huggingface_names.from_huggingface(state, shape), jax.tree.map(jnp.asarray, bert_oracles.batch(case))


def inputs(batch):
    return batch["tokens"], batch["segments"], batch["lengths"]


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
