"""SimCLR: the loss of a step by hand, BatchNorm over both views, the same step on every number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.methods.simclr import simclr
from ssljax.models import heads, resnet
from ssljax.types import BadInputError

BATCH = 8


def encoders():
    return resnet.resnet((1,), stem="cifar", width=4), heads.mlp((8, 8), batch_norm=True, bias=False)


def two_views():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((BATCH, 8, 8, 3)).astype(np.float32) for name in ("view_1", "view_2")}


def start(method):
    init = jax.jit(method.init, out_shardings=sharding.replicated())
    return init(jax.random.key(0), {"view_1": jnp.asarray(two_views()["view_1"])})


def by_hand(z_1, z_2, temperature):
    """Equation 1 row by row in float64."""
    z = np.concatenate([z_1, z_2]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count, terms = len(z), []
    for i in range(count):
        scores = {j: z[i] @ z[j] / temperature for j in range(count) if j != i}
        positive = scores[(i + count // 2) % count]
        terms.append(np.log(sum(np.exp(score) for score in scores.values())) - positive)
    return np.mean(terms)


def test_the_loss_is_equation_1_of_embeddings_normalised_over_both_views(each_mesh):
    backbone, projector = encoders()
    method = simclr(backbone, projector, temperature=0.5)
    params, aux = start(method)
    batch = two_views()
    loss, (_, metrics) = jax.jit(method.loss)(params, aux, sharding.shard_batch(batch), jax.random.key(1), 0)
    both = np.stack([batch["view_1"], batch["view_2"]], 1).reshape(2 * BATCH, 8, 8, 3)
    stats = aux.stats

    @jax.jit
    def embed(params):
        features, _ = backbone.apply(params["backbone"], stats["backbone"], both, train=True)
        return projector.apply(params["projector"], stats["projector"], features, train=True)[0]

    z = np.asarray(embed(params)).reshape(BATCH, 2, -1)
    np.testing.assert_allclose(loss, by_hand(z[:, 0], z[:, 1], 0.5), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], loss)


@functools.cache
def gradients(devices):
    method = simclr(*encoders(), temperature=0.5)
    with sharding.use_mesh(devices and sharding.make_mesh(devices)):
        params, aux = start(method)
        grad = jax.jit(jax.grad(method.loss, has_aux=True))
        found, _ = grad(params, aux, sharding.shard_batch(two_views()), jax.random.key(1), 0)
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("devices", [2, 8])
def test_gradients_pass_through_the_gather(devices):
    for a, b in zip(*map(jax.tree.leaves, (gradients(devices), gradients(None))), strict=True):
        # what a BatchNorm passes back is a small difference of large sums
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_statistics_move_and_features_read_them():
    method = simclr(*encoders())
    params, aux = start(method)
    _, (moved, _) = jax.jit(method.loss)(params, aux, sharding.shard_batch(two_views()), jax.random.key(1), 0)
    image = jnp.asarray(two_views()["view_1"])
    before, after = (method.features(params, state, image)["backbone"] for state in (aux, moved))
    assert before.shape == (BATCH, 4)
    assert not np.allclose(before, after)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(BadInputError, match=f"temperature={temperature}"):
        simclr(*encoders(), temperature=temperature)
