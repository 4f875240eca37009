import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.evals import features
from ssljax.types import BadInputError

traces = []


def project(variables, images):
    traces.append(images.shape)
    flat = (images / 255.0).reshape(images.shape[0], -1)
    return {"backbone": jnp.tanh(flat @ variables["kernel"]), "half": flat[:, :2].astype(jnp.bfloat16)}


@pytest.mark.parametrize("rows", [1, 7, 16, 33])
def test_extract_equals_the_whole_at_once(each_mesh, rows):
    random = np.random.default_rng(rows)
    images = random.integers(0, 256, (rows, 4, 5, 3), dtype=np.uint8)
    kernel = random.normal(size=(60, 6)).astype(np.float32)
    got = features.extract(project, {"kernel": kernel}, images, batch_size=16)
    flat = (images / 255.0).reshape(rows, -1)
    assert {name: (value.shape, value.dtype) for name, value in got.items()} == {
        "backbone": ((rows, 6), np.dtype(np.float32)),
        "half": ((rows, 2), np.dtype(np.float32)),
    }
    np.testing.assert_allclose(got["backbone"], np.tanh(flat @ kernel), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["half"], flat[:, :2], atol=4e-3)


def test_extract_compiles_once_and_takes_new_variables():
    images = np.zeros((50, 3, 3, 1), np.uint8)
    traces.clear()
    for value in (0.0, 1.0):
        features.extract(project, {"kernel": np.full((9, 2), value, np.float32)}, images, batch_size=16)
    assert traces == [(16, 3, 3, 1)]


def test_extract_reads_a_state_laid_over_the_devices():
    images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4, 1)
    kernel = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    with sharding.use_mesh(sharding.make_mesh(8)):
        got = features.extract(project, {"kernel": sharding.shard(jnp.asarray(kernel))}, images)
    np.testing.assert_allclose(got["backbone"], np.tanh(images.reshape(2, -1) / 255 @ kernel), atol=1e-5)


def test_only_what_is_asked_for_is_kept_and_computed(each_mesh):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    variables = {"kernel": np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)}
    whole = features.extract(project, variables, images)
    for names in (("half",), ("backbone",), ("half", "backbone")):
        got = features.extract(project, variables, images, names=names)
        assert got.keys() == set(names)
        for name in names:
            np.testing.assert_allclose(got[name], whole[name], rtol=1e-6, atol=1e-6)
    batch = sharding.shard_batch({"image": images[:8]})["image"]

    def products(*names):
        """Lines of the compiled program that have to do with the kernel."""
        text = features._apply.lower(project, names, variables, batch).compile().as_text() or ""
        return [line for line in text.splitlines() if "dot" in line or "f32[60,6]" in line]

    assert products("backbone")
    assert products()
    assert not products("half")


@pytest.mark.parametrize("names", [("head",), ("half", "head")])
def test_features_that_there_are_not_are_named(names):
    with pytest.raises(BadInputError, match="there are no features 'head'; the method has backbone, half"):
        features.extract(project, {"kernel": np.zeros((4, 2))}, np.zeros((3, 2, 2, 1), np.uint8), names=names)


@pytest.mark.parametrize("rows", [3, 16, 21])
def test_inputs_may_be_several_arrays(each_mesh, rows):
    random = np.random.default_rng(rows)
    inputs = {"tokens": random.integers(0, 9, (rows, 7)), "lengths": random.integers(1, 8, rows)}

    def mean_of_tokens(table, inputs):
        real = jnp.arange(7)[None] < inputs["lengths"][:, None]
        vectors = jnp.where(real[..., None], jax.nn.one_hot(inputs["tokens"], 9) @ table, 0)
        return {"mean": vectors.sum(1) / inputs["lengths"][:, None]}

    table = random.normal(size=(9, 5)).astype(np.float32)
    got = features.extract(mean_of_tokens, table, inputs, batch_size=8)["mean"]
    wanted = [table[row[:length]].mean(0) for row, length in zip(inputs["tokens"], inputs["lengths"], strict=True)]
    np.testing.assert_allclose(got, np.stack(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("images", "batch_size"), [(np.zeros((0, 2, 2, 1), np.uint8), 4), (np.zeros((3, 2, 2, 1)), 0)])
def test_extract_refuses(images, batch_size):
    with pytest.raises(BadInputError):
        features.extract(project, {}, images, batch_size=batch_size)


def variables():
    return {
        "params": {"kernel": np.ones((2, 3), np.float32), "key": jax.random.key(0)},
        "stats": [jnp.zeros(3), np.arange(3)],
    }


def test_unchanged_lets_a_frozen_encoder_pass(each_mesh):
    frozen = variables() | {"sharded": sharding.shard(jnp.arange(8.0))}
    with features.unchanged(frozen):
        features.extract(lambda v, x: {"a": x.reshape(x.shape[0], -1)}, frozen, np.ones((3, 2, 2, 1), np.uint8))


def change_in_place(tree):
    tree["params"]["kernel"][1, 1] = np.nextafter(np.float32(1), np.float32(2))


def change_stats(tree):
    tree["stats"][0] = tree["stats"][0] + 1e-7


def change_dtype(tree):
    tree["stats"][1] = tree["stats"][1].astype(np.uint64)


def change_key(tree):
    tree["params"]["key"] = jax.random.key(1)


def remove(tree):
    del tree["stats"]


def add(tree):
    tree["more"] = np.zeros(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_in_place, "kernel"),
        (change_stats, "stats"),
        (change_dtype, "stats"),
        (change_key, "key"),
        (remove, "stats"),
        (add, "more"),
    ],
)
def test_unchanged_names_what_changed(change, named):
    tree = variables()
    with pytest.raises(features.BackboneChangedError, match=named), features.unchanged(tree):
        change(tree)


def test_an_error_inside_unchanged_comes_through():
    tree = variables()
    with pytest.raises(ZeroDivisionError), features.unchanged(tree):
        raise ZeroDivisionError(tree.pop("stats"))


def test_fifths_hold_out_a_fifth_of_each_class_and_never_a_lonely_row():
    labels = np.repeat([0, 1, 2], [20, 10, 1])
    fifths = features.fifths(labels, seed=3)
    for fold in range(5):
        assert np.bincount(labels[fifths == fold], minlength=3).tolist() == [4, 2, 0]
    assert fifths[-1] == -1
    assert (fifths != features.fifths(labels, seed=4)).any()


@pytest.mark.parametrize("labels", [None, [0, 1], [[0], [1], [2]], [0, 1, 3], [0, -1, 1]])
def test_check_labels_refuses(labels):
    with pytest.raises(BadInputError, match="label"):
        features.check_labels("labels", labels, 3, 3)
