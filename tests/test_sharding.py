"""Where arrays go under a mesh, and that nothing changes without one."""

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


@pytest.mark.parametrize(
    ("variables", "platforms", "chips", "joins"),
    [
        ({}, None, False, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None, False, False),  # a description of a slice, as `ssljax plan` gives it
        ({}, None, True, True),  # a slice made with gcloud exports nothing: jax asks the metadata server
        ({}, "tpu,cpu", True, True),
        ({}, "cpu", True, False),  # something small on one host of a slice would wait for the others
        ({"SLURM_NTASKS": "1"}, "cpu", False, False),
        ({"SLURM_NTASKS": "4"}, "cpu", False, True),
    ],
)
def test_hosts_are_joined_where_jax_can_find_them(monkeypatch, variables, platforms, chips, joins):
    calls = _hosts(monkeypatch, variables, platforms, chips)
    sharding.start_hosts(heartbeat_timeout=7)
    assert calls == ([((), {"heartbeat_timeout_seconds": 7})] if joins else [])


def test_hosts_are_joined_as_the_environment_says_and_once(monkeypatch):
    named = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    calls = _hosts(monkeypatch, named, None, True)
    sharding.start_hosts()
    assert calls == [(("host:1", 2, 1), {"heartbeat_timeout_seconds": 100})]
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    sharding.start_hosts()
    assert len(calls) == 1


def test_a_tpu_without_a_slice_runs_alone(monkeypatch):
    calls = _hosts(monkeypatch, {}, None, True, ValueError("coordinator_address should be defined."))
    sharding.start_hosts()
    assert len(calls) == 1


def _hosts(monkeypatch, variables, platforms, chips, fails=None):
    """What `jax.distributed.initialize` is called with, on a host that looks like this."""
    for name in ("JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []

    def initialize(*args, **options):
        calls.append((args, options))
        if fails:
            raise fails

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(sharding.cloud_tpu_init, "running_in_cloud_tpu_vm", chips)
    monkeypatch.setattr(sharding, "_platforms", lambda: platforms)
    return calls
