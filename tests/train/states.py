"""Train states for the tests of checkpoints: every kind of leaf, and those of the methods, without compiling much."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax.train.guard import Guard
from ssljax.train.saving import snapshot
from ssljax.train.state import TrainState, init_state
from tests.methods import test_bert_training
from tests.train import toy


def fill(shapes, seed, step=None):
    """Random bits in every leaf, NaNs and denormals among them; `step` where it is given."""
    rng = np.random.default_rng(seed)

    def one(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        if leaf.dtype == jnp.bool_:
            return jnp.asarray(rng.integers(0, 2, leaf.shape, np.uint8).astype(bool))
        raw = rng.bytes(int(np.prod(leaf.shape)) * leaf.dtype.itemsize)
        return jnp.asarray(np.frombuffer(raw, leaf.dtype).reshape(leaf.shape))

    state = jax.tree.map(one, shapes)
    return state if step is None else state.replace(step=jnp.int32(step))


def every_kind(step=0, width=5, rows=16):
    """A small state with leaves of every dtype, scalars, one without elements, and `aux["queue"]` [rows, 3]."""
    kinds = ["float32", "bfloat16", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32", "bool"]
    params = {kind: {"x": jax.ShapeDtypeStruct((3, width), jnp.dtype(kind))} for kind in kinds}
    params |= {"scalar": jax.ShapeDtypeStruct((), jnp.float32), "none": jax.ShapeDtypeStruct((0, 3), jnp.float32)}
    aux = {"queue": jax.ShapeDtypeStruct((rows, 3), jnp.float32), "nothing": {}}
    key = jax.eval_shape(jax.random.key, 0)
    guard = jax.eval_shape(Guard.new)
    shapes = TrainState(jnp.int32(0), params, aux, (optax.EmptyState(), [params["int8"]]), key, guard)
    return fill(shapes, step, step)


def of(name, step=0):
    """`every_kind`, or a toy state of "moco" or "bert"."""
    return every_kind(step) if name == "every kind" else fill(_shapes(name), step, step)


@functools.cache
def _shapes(name):
    if name == "bert":
        parts, batch = test_bert_training.pieces(), test_bert_training.instances()
    else:
        method, views, optimizer = toy.make(name)
        parts, batch = (method, views, optimizer), {"image": toy.picture_batches(1)[0]["image"]}
    method, views, optimizer = parts
    return jax.eval_shape(lambda: init_state(method, optimizer, views, batch, 0))


def same(a, b):
    """Whether two states have the same bits."""
    a, b = snapshot.flatten(a), snapshot.flatten(b)
    return a.keys() == b.keys() and all(bits(a[name]) == bits(b[name]) for name in a)


def bits(leaf):
    """A leaf's dtype, shape and bytes."""
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()
