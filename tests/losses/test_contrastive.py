import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from ssljax import losses
from ssljax.types import BadInputError
from tests.oracles import expected, losses_oracles
from tests.oracles.losses_oracles import normals

assert_close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)

jit_info_nce = jax.jit(losses.info_nce, static_argnames="similarity")
jit_nt_xent = jax.jit(losses.nt_xent)
jit_in_batch = jax.jit(losses.in_batch_info_nce)
jit_binary = jax.jit(losses.binary_contrastive)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def info_nce_by_hand(query, positive, negatives, temperature):
    terms = []
    for i, row in enumerate(query):
        scores = np.array([row @ positive[i], *(row @ negative for negative in negatives)]) / temperature
        terms.append(logsumexp(scores) - scores[0])
    return np.mean(terms)


def nt_xent_by_hand(z_1, z_2, temperature):
    views = unit(np.concatenate([z_1, z_2]))
    count = len(z_1)
    terms = []
    for i in range(2 * count):
        scores = views @ views[i] / temperature
        terms.append(logsumexp(np.delete(scores, i)) - scores[(i + count) % (2 * count)])
    return np.mean(terms)


def in_batch_by_hand(query, keys, temperature, first_row=0):
    terms = []
    for i, row in enumerate(unit(query)):
        scores = unit(keys) @ row / temperature
        terms.append(logsumexp(scores) - scores[first_row + i])
    return 2 * temperature * np.mean(terms)


def assert_same_gradients(name, function, arrays, oracle):
    value, gradients = jax.jit(jax.value_and_grad(function, range(len(arrays))))(*arrays)
    assert_close(value, oracle[f"{name}_loss"])
    for i, gradient in enumerate(gradients):
        assert_close(gradient, oracle[f"{name}_gradient_{i}"])


@pytest.mark.parametrize("similarity", ["cosine", "inner"])
@pytest.mark.parametrize("case", losses_oracles.INFO_NCE_CASES)
def test_info_nce_and_its_gradients_are_torchs(case, similarity):
    arrays, temperature = losses_oracles.info_nce_inputs(case)

    def loss(query, positive, negatives):
        return losses.info_nce(query, positive, negatives, temperature=temperature, similarity=similarity)

    assert_same_gradients(f"{similarity}_{case}", loss, arrays, expected("info_nce_torch"))


@pytest.mark.parametrize("case", losses_oracles.NT_XENT_CASES)
def test_nt_xent_and_its_gradients_are_lightlys(case):
    arrays, temperature = losses_oracles.nt_xent_inputs(case)

    def loss(z_1, z_2):
        return losses.nt_xent(z_1, z_2, temperature=temperature)

    assert_same_gradients(case, loss, arrays, expected("nt_xent_lightly"))


@pytest.mark.parametrize("case", losses_oracles.IN_BATCH_CASES)
def test_in_batch_info_nce_and_its_gradients_are_torchs(case):
    arrays, first_row, temperature = losses_oracles.in_batch_inputs(case)

    def loss(query, keys):
        return losses.in_batch_info_nce(query, keys, temperature=temperature, first_row=first_row)

    assert_same_gradients(case, loss, arrays, expected("in_batch_torch"))


@pytest.mark.parametrize("case", losses_oracles.BINARY_CASES)
def test_binary_contrastive_is_sigmoid_cross_entropy_with_shifted_labels(case):
    *arrays, labels = losses_oracles.binary_inputs(case)

    def loss(h_i, h_j):
        return losses.binary_contrastive(h_i, h_j, jnp.asarray(labels))

    assert_same_gradients(case, loss, arrays, expected("binary_contrastive_torch"))


@pytest.mark.parametrize(("batch", "dim", "size"), [(1, 2, 1), (3, 4, 5), (8, 16, 2)])
def test_losses_by_hand_in_float64(batch, dim, size):
    with jax.enable_x64(True):
        arrays = normals(batch, (batch, dim), (batch, dim), (size, dim))
        query, positive, negatives = (array.astype(np.float64) for array in arrays)
        inner = jit_info_nce(query, positive, negatives, temperature=0.3, similarity="inner")
        cosine = jit_info_nce(query, positive, negatives, temperature=0.3)
        pairs = jit_nt_xent(query, positive, temperature=0.3)
        keys = np.concatenate([negatives, positive]).astype(np.float64)
        in_batch = jit_in_batch(query, keys, temperature=0.3, first_row=size)
        assert inner.dtype == cosine.dtype == pairs.dtype == in_batch.dtype == jnp.float64
    np.testing.assert_allclose(inner, info_nce_by_hand(query, positive, negatives, 0.3), rtol=1e-12)
    np.testing.assert_allclose(cosine, info_nce_by_hand(unit(query), unit(positive), unit(negatives), 0.3), rtol=1e-12)
    np.testing.assert_allclose(pairs, nt_xent_by_hand(query, positive, 0.3), rtol=1e-12)
    np.testing.assert_allclose(in_batch, in_batch_by_hand(query, keys, 0.3, size), rtol=1e-12)


def test_logits_have_the_positive_first():
    query, negatives = jnp.eye(2), jnp.array([[1.0, 0.0], [0.0, -2.0], [3.0, 4.0]])
    logits = losses.info_nce_logits(query, 2 * query, negatives, temperature=0.5, similarity="inner")
    np.testing.assert_allclose(logits, [[4, 2, 0, 6], [4, 0, -4, 8]])
    cosine = losses.info_nce_logits(query, 2 * query, negatives, temperature=0.5)
    np.testing.assert_allclose(cosine, [[2, 2, 0, 1.2], [2, 0, -2, 1.6]], rtol=1e-6)


def test_in_batch_logits_are_cosines_with_the_own_key_on_the_diagonal():
    query, keys = jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.array([[1.0, 0.0], [0.0, -2.0], [3.0, 4.0]])
    logits = losses.in_batch_logits(query, keys, temperature=0.5)
    np.testing.assert_allclose(logits, [[2, 0, 1.2], [0, -2, 1.6]], rtol=1e-6, atol=1e-6)


def test_equal_similarities_cost_the_log_of_the_number_of_candidates():
    same = jnp.ones((4, 3))
    np.testing.assert_allclose(jit_info_nce(same, same, same, temperature=0.1), np.log(5), rtol=1e-5)
    np.testing.assert_allclose(jit_nt_xent(same, same, temperature=0.1), np.log(7), rtol=1e-5)
    np.testing.assert_allclose(jit_in_batch(same, same, temperature=0.1), 0.2 * np.log(4), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32])
def test_computed_in_float32(dtype):
    wide = [np.round(4 * array) for array in normals(3, (4, 8), (4, 8), (6, 8))]
    query, positive, negatives = (jnp.asarray(array, dtype) for array in wide)
    loss = jit_info_nce(query, positive, negatives, temperature=0.07)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, info_nce_by_hand(*map(unit, wide), temperature=0.07), rtol=1e-5)
    np.testing.assert_allclose(
        jit_nt_xent(query, positive, temperature=0.07),
        nt_xent_by_hand(*wide[:2], temperature=0.07),
        rtol=1e-5,
    )
    in_batch = jit_in_batch(query, positive, temperature=0.07)
    assert in_batch.dtype == jnp.float32
    np.testing.assert_allclose(in_batch, in_batch_by_hand(*wide[:2], temperature=0.07), rtol=1e-5)
    labels = jnp.array([1, -1, 1, -1])
    assert jit_binary(query, positive, labels).dtype == jnp.float32


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
def every_loss(left, right, negatives):
    return (
        losses.info_nce(left, right, negatives, temperature=1.0, similarity="inner")
        + losses.info_nce(left, right, negatives, temperature=1e-4)
        + losses.nt_xent(left, right, temperature=1e-4)
        + losses.in_batch_info_nce(left, negatives, temperature=1e-4)
        + losses.binary_contrastive(left, right, jnp.array([1, -1, 1]))
    )


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_finite_with_finite_gradients(scale, sign):
    left = np.full((3, 4), 0.5 * scale, np.float32)
    right = np.float32(sign) * left
    value, gradients = every_loss(left, right, np.concatenate([right, -right, 0 * left]))
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_logit_of_ten_thousand_is_not_saturated_away():
    query = jnp.array([[100.0, 0.0]])
    for sign, loss in [(1, 0.0), (-1, 1e4)]:
        value = jit_info_nce(query, sign * query, jnp.zeros((1, 2)), temperature=1.0, similarity="inner")
        np.testing.assert_allclose(value, loss, rtol=1e-6, atol=1e-6)
        binary = jit_binary(query, sign * query, jnp.array([1]))
        np.testing.assert_allclose(binary, loss, rtol=1e-6, atol=1e-6)


def test_normalise_passes_no_gradient_at_zero():
    rows = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(jnp.linalg.norm(losses.l2_normalize(rows), axis=1), [0, 1], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.l2_normalize(x)[:, 0].sum())(rows)
    np.testing.assert_allclose(gradient, [[0, 0], [16 / 125, -12 / 125]], rtol=1e-5)


def test_a_label_of_zero_teaches_nothing_and_is_refused():
    h = jnp.ones((2, 3))
    with pytest.raises(BadInputError, match=r"2 \* y - 1"):
        losses.binary_contrastive(h, h, jnp.array([0, 1]))
    with pytest.raises(BadInputError, match="label other than"):
        jax.grad(losses.binary_contrastive)(h, h, jnp.array([2.0, 1.0]))
    value, gradient = jax.jit(jax.value_and_grad(losses.binary_contrastive))(h, h, jnp.array([0, 1]))
    assert np.isnan(value)
    np.testing.assert_array_equal(np.isnan(gradient), [[True] * 3, [False] * 3])


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), np.float32(0)])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    z = jnp.ones((2, 3))
    with pytest.raises(BadInputError, match="temperature"):
        losses.info_nce(z, z, z, temperature=temperature)
    with pytest.raises(BadInputError, match="temperature"):
        losses.nt_xent(z, z, temperature=temperature)
    with pytest.raises(BadInputError, match="temperature"):
        losses.in_batch_info_nce(z, z, temperature=temperature)


def test_a_temperature_can_be_learned():
    z_1, z_2 = map(jnp.asarray, normals(7, (4, 3), (4, 3)))
    gradient = jax.jit(jax.grad(lambda t: losses.nt_xent(z_1, z_2, temperature=t)))(0.5)
    step = (nt_xent_by_hand(z_1, z_2, 0.51) - nt_xent_by_hand(z_1, z_2, 0.49)) / 0.02
    np.testing.assert_allclose(gradient, step, rtol=5e-3)


def test_shapes_and_names_that_do_not_fit_are_refused():
    z, short, narrow = jnp.ones((4, 3)), jnp.ones((2, 3)), jnp.ones((4, 2))
    with pytest.raises(BadInputError, match="similarity='dot'"):
        losses.info_nce(z, z, z, temperature=1.0, similarity="dot")
    for positive, negatives in [(short, z), (narrow, z), (z, narrow), (z, z[0])]:
        with pytest.raises(BadInputError, match=r"\(4, 3\)|give \[K, 3\]"):
            losses.info_nce(z, positive, negatives, temperature=1.0)
    for other, candidates in [(short, None), (z, (z, short)), (z, (short, short)), (z, (narrow, narrow))]:
        with pytest.raises(BadInputError, match=r"\(4, 3\)"):
            losses.nt_xent(z, other, temperature=1.0, candidates=candidates)
    for keys in (short, narrow, z[0]):
        with pytest.raises(BadInputError, match=r"as wide as query \(4, 3\)"):
            losses.in_batch_info_nce(z, keys, temperature=1.0)
    with pytest.raises(BadInputError, match="h_j"):
        losses.binary_contrastive(z, short, jnp.ones(4))
    with pytest.raises(BadInputError, match=r"\(4,\)"):
        losses.binary_contrastive(z, z, jnp.ones((4, 1)))
