import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import queue, sharding
from ssljax.types import BadInputError

enqueue = jax.jit(queue.enqueue)


def ring_by_hand(size, dim, batches):
    ring, pointer = np.full((size, dim), -1.0, np.float32), 0
    for batch in batches:
        for row in batch:
            ring[pointer] = row
            pointer = (pointer + 1) % size
    return ring, pointer


@pytest.mark.parametrize(
    ("size", "batches"),
    [
        (6, [2, 2, 2, 2]),
        (7, [3, 3, 3, 3, 3]),
        (5, [5, 5]),
        (8, [3, 4, 4, 1, 8, 2]),
        (1, [1, 1]),
    ],
)
def test_keys_replace_the_oldest_and_wrap(size, batches):
    ring = queue.Queue(jnp.full((size, 2), -1.0), jnp.int32(0))
    values = np.split(np.arange(2.0 * sum(batches)).reshape(-1, 2), np.cumsum(batches)[:-1])
    for count, batch in enumerate(values, start=1):
        ring = enqueue(ring, jnp.asarray(batch, jnp.float32))
        keys, pointer = ring_by_hand(size, 2, values[:count])
        np.testing.assert_array_equal(ring.keys, keys)
        assert ring.pointer == pointer
    assert ring.pointer.dtype == jnp.int32


def test_starts_as_random_directions():
    ring = queue.init(jax.random.key(0), 200, 8)
    assert ring.keys.shape == (200, 8)
    assert ring.keys.dtype == jnp.float32
    assert ring.pointer == 0
    np.testing.assert_allclose(np.linalg.norm(ring.keys, axis=1), 1, rtol=1e-6)
    assert np.abs(np.mean(ring.keys, axis=0)).max() < 0.15
    assert not np.array_equal(ring.keys, queue.init(jax.random.key(1), 200, 8).keys)


def test_keys_are_stored_as_given_in_float32():
    ring = queue.enqueue(queue.init(jax.random.key(0), 4, 2), jnp.full((2, 2), 3.0, jnp.bfloat16))
    np.testing.assert_array_equal(ring.keys[:2], np.full((2, 2), 3.0))
    assert ring.keys.dtype == jnp.float32


def test_no_gradient_passes():
    ring = queue.init(jax.random.key(0), 4, 2)
    gradient = jax.grad(lambda keys: queue.enqueue(ring, keys).keys.sum())(jnp.ones((2, 2)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


def test_is_a_tree_of_two_leaves():
    ring = queue.init(jax.random.key(0), 4, 2)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(ring)]
    assert paths == [".keys", ".pointer"]


def test_the_same_on_every_mesh(each_mesh):
    ring = queue.Queue(jnp.full((5, 2), -1.0), jnp.int32(0))
    batches = np.arange(48.0, dtype=np.float32).reshape(3, 8, 2)
    with_room = queue.Queue(jnp.full((12, 2), -1.0), jnp.int32(0))
    for batch in batches:
        keys = sharding.gather(sharding.shard(jnp.asarray(batch)))
        ring, with_room = enqueue(ring, keys[:4]), enqueue(with_room, keys)
    np.testing.assert_array_equal(ring.keys, ring_by_hand(5, 2, batches[:, :4])[0])
    np.testing.assert_array_equal(with_room.keys, ring_by_hand(12, 2, batches)[0])


def test_a_donated_queue_is_written_in_place():
    step = jax.jit(queue.enqueue, donate_argnums=0)
    ring = queue.init(jax.random.key(0), 6, 2)
    after = step(ring, jnp.ones((2, 2)))
    assert ring.keys.is_deleted()
    np.testing.assert_array_equal(after.keys[:2], np.ones((2, 2)))


def test_what_does_not_fit_is_refused():
    ring = queue.init(jax.random.key(0), 4, 2)
    with pytest.raises(BadInputError, match="5 keys does not fit a queue of 4"):
        queue.enqueue(ring, jnp.ones((5, 2)))
    for keys in (jnp.ones((2, 3)), jnp.ones(2)):
        with pytest.raises(BadInputError, match=r"\[B, 2\]"):
            queue.enqueue(ring, keys)
    for size, dim in [(0, 2), (2, 0)]:
        with pytest.raises(BadInputError, match="at least 1"):
            queue.init(jax.random.key(0), size, dim)
