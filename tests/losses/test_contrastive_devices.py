import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssljax import losses, sharding
from tests.losses.test_contrastive import in_batch_by_hand, info_nce_by_hand, nt_xent_by_hand, unit
from tests.oracles.losses_oracles import normals


def sharded_nt_xent(z_1, z_2, temperature=0.5):
    candidates = (sharding.gather(z_1), sharding.gather(z_2))
    return losses.nt_xent(z_1, z_2, temperature=temperature, candidates=candidates)


def sharded_in_batch(query, key, temperature=0.5):
    keys = jax.lax.stop_gradient(sharding.gather(key))
    return losses.in_batch_info_nce(query, keys, temperature=temperature)


def test_losses_do_not_depend_on_the_devices(each_mesh):
    arrays = normals(8, (16, 5), (16, 5), (6, 5))
    labels = np.where(arrays[0][:, 0] > 0, 1, -1)
    z_1, z_2, y = (sharding.shard(jnp.asarray(array)) for array in (*arrays[:2], labels))
    in_batch = jax.jit(sharded_in_batch)(z_1, z_2)
    np.testing.assert_allclose(in_batch, in_batch_by_hand(*arrays[:2], temperature=0.5), rtol=1e-6)
    negatives = jnp.asarray(arrays[2])
    pairs = jax.jit(sharded_nt_xent)(z_1, z_2)
    np.testing.assert_allclose(pairs, nt_xent_by_hand(*arrays[:2], temperature=0.5), rtol=1e-6)
    loss = jax.jit(lambda *inputs: losses.info_nce(*inputs, temperature=0.2))(z_1, z_2, negatives)
    np.testing.assert_allclose(loss, info_nce_by_hand(*map(unit, arrays), temperature=0.2), rtol=1e-6)
    by_hand = np.mean(np.log1p(np.exp(-labels * np.sum(arrays[0] * arrays[1], axis=1))))
    np.testing.assert_allclose(jax.jit(losses.binary_contrastive)(z_1, z_2, y), by_hand, rtol=1e-6)


@functools.cache
def gradients_on_one_device():
    with sharding.use_mesh(sharding.make_mesh(1)):
        loss = functools.partial(losses.nt_xent, temperature=0.5)
        pairs = jax.jit(jax.grad(loss, (0, 1)))(*normals(5, (8, 4), (8, 4)))
        in_batch = jax.jit(jax.grad(sharded_in_batch))(*normals(5, (8, 4), (8, 4)))
        return [np.asarray(x) for x in (*pairs, in_batch)]


def test_gradients_through_the_gather_are_those_of_one_device(each_mesh):
    arrays = normals(5, (8, 4), (8, 4))
    reference = gradients_on_one_device()
    sharded = [sharding.shard(jnp.asarray(array)) for array in arrays]
    found = (*jax.jit(jax.grad(sharded_nt_xent, (0, 1)))(*sharded), jax.jit(jax.grad(sharded_in_batch))(*sharded))
    for gradient, single in zip(found, reference, strict=True):
        np.testing.assert_allclose(gradient, single, rtol=1e-5, atol=1e-7)

    def detached(z_1, z_2):
        candidates = jax.lax.stop_gradient((sharding.gather(z_1), sharding.gather(z_2)))
        return losses.nt_xent(z_1, z_2, temperature=0.5, candidates=candidates)

    assert np.abs(jax.jit(jax.grad(detached))(*sharded) - reference[0]).max() > 1e-3


def test_rows_of_a_shard_mask_themselves_by_their_global_index():
    arrays = normals(6, (8, 4), (8, 4))
    with sharding.use_mesh(sharding.make_mesh(4)):

        def local(z_1, z_2):
            everyone = tuple(jax.lax.all_gather(z, "data", tiled=True) for z in (z_1, z_2))
            first_row = jax.lax.axis_index("data") * z_1.shape[0]
            loss = losses.nt_xent(z_1, z_2, temperature=0.5, candidates=everyone, first_row=first_row)
            return jax.lax.pmean(loss, "data")

        mapped = jax.jit(jax.shard_map(local, in_specs=(P("data"), P("data")), out_specs=P()))
        loss = mapped(*(sharding.shard(jnp.asarray(array)) for array in arrays))
    np.testing.assert_allclose(loss, nt_xent_by_hand(*arrays, temperature=0.5), rtol=1e-6)


def test_rows_of_a_shard_find_their_own_keys_by_their_global_index():
    arrays = normals(6, (8, 4), (8, 4))
    with sharding.use_mesh(sharding.make_mesh(4)):

        def local(query, key):
            keys = jax.lax.all_gather(key, "data", tiled=True)
            first_row = jax.lax.axis_index("data") * len(query)
            loss = losses.in_batch_info_nce(query, keys, temperature=0.5, first_row=first_row)
            return jax.lax.pmean(loss, "data")

        mapped = jax.jit(jax.shard_map(local, in_specs=(P("data"), P("data")), out_specs=P()))
        loss = mapped(*(sharding.shard(jnp.asarray(array)) for array in arrays))
    np.testing.assert_allclose(loss, in_batch_by_hand(*arrays, temperature=0.5), rtol=1e-6)


def test_a_forgotten_gather_is_refused():
    with sharding.use_mesh(sharding.make_mesh(2)):
        z = sharding.shard(jnp.ones((4, 3)))
        with pytest.raises(Exception, match="shard"):
            losses.nt_xent(z, z, temperature=0.5)
        with pytest.raises(Exception, match="shard"):
            losses.in_batch_info_nce(z, z, temperature=0.5)
