"""The layout of arrays under a mesh, the same values and gradients with and without one, and joining hosts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import BadInputError, Encoder, chain


def test_shard_gather_and_take_rows_keep_the_values(each_mesh):
    x = np.arange(48, dtype=np.float32).reshape(16, 3)
    order = np.random.default_rng(0).permutation(16)

    @jax.jit
    def both(x):
        split = sharding.shard(x)
        return split, sharding.gather(split), sharding.take_rows(split, jnp.asarray(order))

    split, whole, taken = both(x)
    np.testing.assert_array_equal(split, x)
    np.testing.assert_array_equal(whole, x)
    np.testing.assert_array_equal(taken, x[order])
    if each_mesh is not None:
        assert split.sharding.spec == P("data", None)
        assert taken.sharding.spec == P("data", None)
        assert len(split.sharding.device_set) == each_mesh
        assert whole.sharding.is_fully_replicated
    assert sharding.data_devices() == (each_mesh or 1)


def test_local_negatives_cannot_be_taken_for_global_ones():
    """Similarities within a sharded batch are a type error until gathered."""
    with sharding.use_mesh(sharding.make_mesh(4)):
        z = sharding.shard(jnp.ones((8, 2)))
        with pytest.raises(Exception, match="data"):
            jax.jit(lambda z: z @ z.T)(z)
        assert jax.jit(lambda z: z @ sharding.gather(z).T)(z).shape == (8, 8)


def test_the_gather_is_differentiable(each_mesh):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)

    def loss(x):
        x = sharding.shard(x)
        return jnp.sum((x @ sharding.gather(x).T) ** 2)

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x), 4 * (x @ x.T) @ x, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_batch_product_is_of_the_global_batch(each_mesh, dtype):
    x, y, weights = _normal(16, 3).astype(dtype), _normal(16, 4), _normal(3, 4)

    def weighted(x, y):
        product = sharding.batch_product(x, y)
        return jnp.sum(weights * product), product

    (x_gradient, y_gradient), product = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(*sharding.shard((x, y)))
    x = x.astype(np.float32)
    _assert_close(product, x.T @ y)
    _assert_close(x_gradient, (y @ weights.T).astype(dtype))
    _assert_close(y_gradient, x @ weights)
    assert product.dtype == jnp.float32
    if each_mesh is not None:
        assert product.sharding.is_fully_replicated
        assert x_gradient.sharding.spec == P("data", None)


def test_a_batch_product_adds_up_once_and_gathers_nothing():
    with sharding.use_mesh(sharding.make_mesh(4)):
        x = sharding.shard(jnp.ones((8, 3)))
        lowered = jax.jit(sharding.batch_product).lower(x, x)
    assert "precision = [HIGHEST, HIGHEST]" in lowered.as_text()
    text = lowered.compile().as_text() or ""
    assert text.count(" all-reduce(") == 1
    assert "all-gather" not in text


@pytest.mark.parametrize(("layout", "axis"), [(sharding.shard, "data"), (sharding.gather, None)])
def test_patches_are_maes_and_laid_out_as_the_images(each_mesh, layout, axis):
    images, weights = _normal(8, 6, 4, 3), _normal(8, 6, 12)

    def weighted(images):
        patches = sharding.patches(images, 2)
        return jnp.sum(weights * patches), patches

    gradient, patches = jax.jit(jax.grad(weighted, has_aux=True))(layout(images))
    # facebookresearch/mae's `patchify`, whose images have the channels first
    first = images.transpose(0, 3, 1, 2).reshape(8, 3, 3, 2, 2, 2)
    np.testing.assert_array_equal(patches, np.einsum("nchpwq->nhwpqc", first).reshape(8, 6, 12))
    back = np.einsum("nhwpqc->nhpwqc", weights.reshape(8, 3, 2, 2, 2, 3))
    np.testing.assert_array_equal(gradient, back.reshape(8, 6, 4, 3))
    if each_mesh is not None:
        assert patches.sharding.spec == P(axis, None, None)
        assert gradient.sharding.spec == P(axis, None, None, None)


def test_patches_are_read_by_a_vits_embedding():
    images, kernel = jnp.asarray(_normal(2, 6, 4, 3)), jnp.asarray(_normal(2, 2, 3, 5))
    layouts = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(images, kernel, (2, 2), "VALID", dimension_numbers=layouts)
    _assert_close(sharding.patches(images, 2) @ kernel.reshape(12, 5), convolved.reshape(2, 6, 5))


def test_rows_like_makes_a_row_for_each(each_mesh):
    tokens, token, weights = _normal(8, 5, 3), _normal(1, 1, 3), _normal(8, 6, 3)

    def weighted(token, tokens):
        both = jnp.concatenate([sharding.rows_like(token, tokens), tokens], axis=1)
        return jnp.sum(weights * both), both

    gradients, both = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(token, sharding.shard(tokens))
    np.testing.assert_array_equal(both, np.concatenate([np.broadcast_to(token, (8, 1, 3)), tokens], axis=1))
    _assert_close(gradients[0], weights[:, :1].sum(0, keepdims=True))
    np.testing.assert_array_equal(gradients[1], weights[:, 1:])
    if each_mesh is not None:
        assert both.sharding.spec == P("data", None, None)
        assert gradients[0].sharding.is_fully_replicated


def test_shapes_that_do_not_fit_are_refused():
    for size in (0, 4, 5):
        with pytest.raises(BadInputError, match=f"size={size} does not divide images of 6 x 4"):
            sharding.patches(jnp.ones((2, 6, 4, 3)), size)
    with pytest.raises(BadInputError, match=r"values has shape \(2, 3\); give one row"):
        sharding.rows_like(jnp.ones((2, 3)), jnp.ones((2, 5)))


def test_the_helpers_serve_within_shard_map():
    def own_rows(images):
        tokens = sharding.patches(images, 2)
        total = jax.lax.psum(sharding.batch_product(tokens[:, 0], tokens[:, 1]), sharding.DATA)
        return jnp.concatenate([sharding.rows_like(jnp.zeros((1, 1, 12)), tokens), tokens], axis=1), total

    images = _normal(8, 4, 4, 3)
    expected = np.asarray(sharding.patches(jnp.asarray(images), 2))
    with sharding.use_mesh(sharding.make_mesh(4)):
        tokens, total = jax.shard_map(own_rows, in_specs=P("data"), out_specs=(P("data"), P()))(sharding.shard(images))
    np.testing.assert_array_equal(tokens[:, 1:], expected)
    _assert_close(total, expected[:, 0].T @ expected[:, 1])


def test_the_examples_of_the_page_run(each_mesh):
    """Those of "Under a mesh" in `methods/README.md`, line for line, held to NumPy."""
    rows_1, rows_2, pictures, words = _normal(8, 3), _normal(8, 3)[::-1], _normal(8, 4, 4, 3), _normal(8, 5, 3)
    z_1, z_2, images, tokens = sharding.shard((rows_1, rows_2, pictures, words))
    class_token, key = jnp.ones((1, 1, 3)), jax.random.key(0)

    mean, std = z_1.mean(axis=0), z_1.std(axis=0)
    z_1 = (z_1 - mean[None]) / std[None]
    rows_1 = (rows_1 - rows_1.mean(axis=0, keepdims=True)) / rows_1.std(axis=0, keepdims=True)
    _assert_close(z_1, rows_1)

    noise = sharding.shard(jax.random.uniform(key, tokens.shape[:2]))
    order = jnp.argsort(noise, axis=1)
    tokens = jnp.take_along_axis(tokens, order[:, :, None], axis=1)
    np.testing.assert_array_equal(tokens, np.take_along_axis(words, np.asarray(order)[:, :, None], axis=1))

    similarities = z_1 @ sharding.gather(z_2).T
    _assert_close(similarities, rows_1 @ rows_2.T)

    order = jax.random.permutation(key, len(images))
    shuffled = sharding.take_rows(images, order)
    np.testing.assert_array_equal(shuffled, pictures[order])

    correlation = sharding.batch_product(z_1, z_2) / len(z_1)
    on_diagonal = jnp.diagonal(correlation)
    _assert_close(on_diagonal, (rows_1 * rows_2).mean(axis=0))

    patches = sharding.patches(images, 2)
    grid = sharding.reshape_rows(patches, (2, 2, 2, 2, 3))
    np.testing.assert_array_equal(grid[:, 0, 1], pictures[:, :2, 2:])

    first = sharding.rows_like(class_token, tokens)
    tokens = jnp.concatenate([first, tokens], axis=1)
    assert tokens.shape == (8, 6, 3)
    np.testing.assert_array_equal(tokens[:, 0], np.ones((8, 3)))


@pytest.mark.parametrize(
    ("devices", "size", "message"),
    [
        (8, 100, "batch_size=100 does not divide over the 8 devices; use a multiple of 8, such as 96 or 104."),
        (8, 3, "batch_size=3 does not divide over the 8 devices; use a multiple of 8, such as 8."),
        (8, 0, "batch_size=0 is too small; use at least 8."),
        (1, -1, "batch_size=-1 is too small; use at least 1."),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(devices, size, message):
    with sharding.use_mesh(sharding.make_mesh(devices)), pytest.raises(BadInputError, match=f"^{re.escape(message)}$"):
        sharding.check_batch_size(size)


def test_a_batch_that_divides_passes(each_mesh):
    sharding.check_batch_size(16)
    with pytest.raises(BadInputError, match="probe_batch=0 "):
        sharding.check_batch_size(0, "probe_batch")


def test_shard_batch_splits_rows(each_mesh):
    batch = sharding.shard_batch({"image": np.arange(16, dtype=np.uint8).reshape(8, 2)})
    np.testing.assert_array_equal(batch["image"], np.arange(16).reshape(8, 2))
    if each_mesh is not None:
        assert batch["image"].addressable_shards[0].data.shape == (8 // each_mesh, 2)


@pytest.mark.parametrize("devices", [0, 9])
def test_too_many_devices_are_refused(devices):
    with pytest.raises(BadInputError, match=f"devices={devices}: this machine has 8"):
        sharding.make_mesh(devices)


def test_chain_feeds_outputs_on_and_keeps_states_apart():
    def scale(factor):
        def apply(params, stats, x, *, train, key=None):
            return x * params, {"calls": stats["calls"] + train}

        return Encoder(lambda key, x: (jnp.float32(factor), {"calls": 0}), apply)

    encoder = chain(first=scale(2), second=scale(5))
    params, stats = encoder.init(jax.random.key(0), jnp.ones(3))
    outputs, new_stats = encoder.apply(params, stats, jnp.ones(3), train=True)
    np.testing.assert_array_equal(outputs, [10, 10, 10])
    assert new_stats == {"first": {"calls": 1}, "second": {"calls": 1}}
    assert set(params) == {"first", "second"}


def _normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def _assert_close(x, expected):
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)
