"""ShuffleBN's exchange against the gathered form, what it permutes, and when it is used."""

import collections
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from ssljax import optim, sharding
from ssljax.methods import shuffle
from ssljax.methods.moco import moco
from ssljax.models import heads
from ssljax.models.from_linen import from_linen
from ssljax.models.norm import BatchNorm
from ssljax.plan import collectives, hlo
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from ssljax.types import Encoder, chain


def orders_of(devices, rows, seed=0):
    """As `shuffle.draw` has them, without a program for each shape."""
    own = np.broadcast_to(np.arange(rows, dtype=np.int32), (devices, 2, rows))
    return jnp.asarray(np.random.default_rng(seed).permuted(own, axis=2))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_any_batch_is_permuted_and_every_partner_gets_an_equal_share(devices, rows, seed):
    orders = orders_of(devices, rows, seed)
    order, partners = np.asarray(shuffle.global_order(orders)), shuffle.partners(devices, rows)
    np.testing.assert_array_equal(np.sort(order), np.arange(devices * rows))
    np.testing.assert_array_equal(shuffle.global_order(shuffle.inverse(orders)), np.argsort(order))
    for device, sources in enumerate(order.reshape(devices, rows) // rows):
        own_group = range(device % (devices // partners), devices, devices // partners)
        assert collections.Counter(sources.tolist()) == dict.fromkeys(own_group, rows // partners)


@pytest.mark.parametrize("groups", [8, 64])
def test_no_more_pictures_meet_again_than_on_eight_gpus(groups):
    """Of the pictures of a BatchNorm group, which may span devices, an eighth at most are of the query's group."""
    devices, rows = 64, 32
    order = np.asarray(shuffle.global_order(orders_of(devices, rows)))
    size = devices * rows // groups
    of_query = (order // size).reshape(groups, size)
    assert np.max(np.sum(of_query == np.arange(groups)[:, None], axis=1)) <= size / 8


def test_each_order_is_uniform():
    orders = np.asarray(shuffle.draw(jax.random.key(0), 600, 3))
    assert orders.shape == (600, 2, 3)
    counts = collections.Counter(map(tuple, orders.reshape(-1, 3).tolist()))
    expected = 1200 / math.factorial(3)
    assert len(counts) == math.factorial(3)
    assert sum((count - expected) ** 2 for count in counts.values()) / expected < 20.5  # chi-squared of 5, p = 0.001


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [8, 6, 3])
def test_the_exchange_is_the_gathered_form_to_the_last_bit(devices, rows):
    orders = orders_of(devices, rows)
    values = np.random.default_rng(0).integers(0, 256, (devices * rows, 2, 3))
    held = {name: jnp.asarray(values, name) for name in ("uint8", "bfloat16", "float32")}

    @jax.jit
    def both_ways(held, orders):
        there = {name: shuffle.exchange(x, orders) for name, x in held.items()}
        return there, {name: shuffle.exchange(x, shuffle.inverse(orders)) for name, x in there.items()}

    with sharding.use_mesh(sharding.make_mesh(devices)):
        there, back = both_ways(sharding.shard(held), orders)
    order = np.asarray(shuffle.global_order(orders))
    for name, x in held.items():
        assert there[name].dtype == back[name].dtype == name
        assert there[name].sharding.spec == back[name].sharding.spec == P("data", None, None)
        np.testing.assert_array_equal(there[name], np.asarray(x)[order], err_msg=name)
        np.testing.assert_array_equal(back[name], x, err_msg=name)


def test_the_exchange_is_differentiable():
    orders = orders_of(4, 6)
    x, weights = np.random.default_rng(0).standard_normal((2, 24, 3)).astype(np.float32)
    with sharding.use_mesh(sharding.make_mesh(4)):
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * shuffle.exchange(x, orders))))(sharding.shard(x))
    np.testing.assert_array_equal(gradient, weights[np.argsort(shuffle.global_order(orders))])


@pytest.mark.parametrize(
    ("devices", "rows", "exchanged"),
    [(8, 32, False), (16, 32, True), (64, 32, True), (256, 32, True), (64, 4, False), (33, 32, False)],
)
def test_what_a_device_sends_does_not_grow_with_their_number(devices, rows, exchanged):
    def permute(key, images):
        there, back = shuffle.permutation(key, devices * rows)
        return back(there(images))

    key, images = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((devices * rows, 4, 4, 3), np.uint8)
    with jax.sharding.use_abstract_mesh(AbstractMesh((devices,), ("data",), (AxisType.Explicit,))):
        text = str(jax.make_jaxpr(permute)(key, images))
    partners = shuffle.partners(devices, rows)
    shares = [f"u8[{partners},{rows // partners},4,4,3]"] if exchanged else []
    assert [*dict.fromkeys(re.findall(r":(\S+?)\{V:data\} = all_to_all\[", text))] == shares
    # what is gathered is whole on every device
    whole = re.findall(rf":u8\[{devices * rows},4,4,3\] = reshard ", text)
    assert bool(whole) == (not exchanged)


@pytest.fixture
def four_devices(monkeypatch):
    """As many exchange their rows already."""
    monkeypatch.setattr(shuffle, "DEVICES", 4)
    monkeypatch.setattr(shuffle, "PARTNERS", 4)
    with sharding.use_mesh(sharding.make_mesh(4)):
        yield


def steps(method, batches, rate=0.1):
    """The state and the metrics after each, and the payload of each kind of collective."""
    optimizer = optim.sgd(rate)
    state = init_state(method, optimizer, no_views, batches[0], seed=0)
    compiled = compile_step(method, no_views, optimizer).lower(state, batches[0]).compile()
    seen = []
    for batch in batches:
        state, metrics = compiled(state, batch)
        seen.append(jax.device_get((state.aux, state.params, metrics)))
    moved = collectives.read(hlo.parse(compiled.as_text() or ""), sharding.data_devices())
    return seen, {kind: found.payload for kind, found in moved.items()}


def no_views(key, **batch):
    return batch


@pytest.mark.parametrize(("symmetric", "groups"), [(False, 2), (True, 8)])
def test_exchanged_pictures_train_as_gathered_ones_do(symmetric, groups, four_devices, monkeypatch):
    pictures, dim = np.random.default_rng(0).standard_normal((3, 2, 32, 12)).astype(np.float32), 6
    batches = [sharding.shard_batch({"view_1": one, "view_2": other}) for one, other in pictures]
    backbone = chain(dense=heads.mlp((12,)), norm=from_linen(BatchNorm(groups=groups)))
    method = moco(backbone, heads.mlp((dim,)), queue_size=128, symmetric=symmetric)
    exchanged, sent = steps(method, batches)
    order = shuffle.global_order
    monkeypatch.setattr(shuffle, "exchange", lambda x, orders: sharding.take_rows(x, order(orders)))
    # the same permutations of the same pictures
    gathered, all_sent = steps(method, batches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), exchanged, gathered)
    directions, keys, pictures = 1 + symmetric, 32 * dim * 4, 32 * 12 * 4
    # what is left are the keys that the queue gets
    assert sent["all-gather"] == directions * keys
    assert sent["all-to-all"] == directions * (keys + pictures) / 4
    assert all_sent["all-gather"] == directions * (2 * keys + pictures)
    assert "all-to-all" not in all_sent


@pytest.mark.parametrize("symmetric", [False, True])
def test_moco_draws_another_permutation_in_each_step_and_undoes_it(symmetric, four_devices):
    # an encoder whose statistics are the pictures that it was given
    recording = Encoder(
        lambda key, x: ({"factor": jnp.ones(())}, {"seen": jnp.zeros_like(x)}),
        lambda params, stats, x, *, train, key=None: (x * params["factor"], {"seen": x}),
    )
    plain = Encoder(lambda key, x: ({}, {}), lambda params, stats, x, *, train, key=None: (x, stats))
    picture = np.random.default_rng(0).standard_normal((48, 4)).astype(np.float32)
    batch = sharding.shard_batch({"view_1": picture, "view_2": picture})
    found, _ = steps(moco(recording, plain, queue_size=96, symmetric=symmetric), [batch] * 3, rate=0.0)
    orders = []
    for aux, _, metrics in found:
        # both views are the same: each query's own key is back in its place
        assert metrics["alignment"] < 1e-12
        order = np.argmax(np.all(aux.key_stats["backbone"]["seen"][:, None] == picture, axis=2), axis=1)
        np.testing.assert_array_equal(np.sort(order), np.arange(48))
        assert np.all(np.sort(order.reshape(4, 12) // 12) == np.repeat(np.arange(4), 3))
        orders.append(tuple(order))
    assert len({*orders}) == 3
