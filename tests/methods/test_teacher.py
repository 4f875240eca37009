"""What methods with a momentum encoder share: copies, the average, passes over views; and a key for every pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.methods import teacher
from ssljax.methods.bert import bert
from ssljax.methods.moco import moco
from ssljax.methods.moco_v3 import moco_v3
from ssljax.methods.simclr import simclr
from ssljax.models import heads, resnet
from ssljax.types import BadInputError, Encoder, chain
from tests.methods import test_bert as words

BATCH = 8
SIZES = (8, 8, 4, 4, 4)


def tree(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"backbone": (3, 4), "projector": (4,)}
    return {name: {"kernel": jnp.asarray(rng.standard_normal(shape), jnp.float32)} for name, shape in shapes.items()}


def assert_close(found, wanted, **tolerances):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerances), found, wanted)


def test_a_copy_has_equal_values_in_buffers_of_its_own():
    original = tree()
    copied = teacher.copy(original)
    assert_close(copied, original, rtol=0)
    pointers = [{leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(each)} for each in (original, copied)]
    assert not pointers[0] & pointers[1]
    moved = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)((original, copied))
    assert_close(moved[0], moved[1], rtol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_the_average_with_a_constant(momentum):
    old, new = tree(0), tree(1)
    found = teacher.average(old, new, momentum, jnp.int32(5))
    assert_close(found, jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, old, new), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("step", [0, 1, 7])
def test_the_average_with_a_schedule_has_the_momentum_of_the_next_step(step):
    old, new, asked = tree(0), tree(1), []

    def momentum(step):
        asked.append(step)
        return 1 - 0.5 / (1 + step)

    found = teacher.average(old, new, momentum, jnp.int32(step))
    assert [int(at) for at in asked] == [step + 1]
    m = 1 - 0.5 / (2 + step)
    assert_close(found, jax.tree.map(lambda a, b: m * a + (1 - m) * b, old, new), rtol=1e-6, atol=1e-7)
    assert_close(jax.jit(functools.partial(teacher.average, momentum=momentum))(old, new, step=step), found, rtol=1e-6)


def test_the_average_passes_over_a_predictor_of_the_student():
    old, new = tree(0), tree(1)
    found = teacher.average(old, new | {"predictor": {"kernel": jnp.ones(9)}}, 0.5, jnp.int32(0))
    assert_close(found, teacher.average(old, new, 0.5, jnp.int32(0)), rtol=0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_cannot_divide_is_refused(temperature):
    with pytest.raises(BadInputError, match=f"temperature={temperature}: the logits are divided by it; use a number"):
        teacher.check_temperature(temperature)


def test_a_constant_momentum_is_checked_and_a_schedule_is_not_called():
    with pytest.raises(BadInputError, match=r"momentum=1\.5"):
        teacher.check_momentum(1.5)
    teacher.check_momentum(lambda step: 1 / 0)
    assert teacher.momentum_at(0.5, jnp.int32(3)) == 0.5
    assert teacher.momentum_at(lambda step: step / 10, jnp.int32(3)) == pytest.approx(0.3)


@functools.cache
def encoder():
    """A ResNet, whose BatchNorm tells which views were together."""
    return chain(
        backbone=resnet.resnet((1,), stem="cifar", width=4), projector=heads.mlp((6, 5), batch_norm=True, bias=False)
    )


def views(sizes=SIZES):
    rng = np.random.default_rng(0)
    # of different spread, so that it matters whose statistics a view is normalised with
    return [(1 + n) * rng.standard_normal((BATCH, size, size, 3)).astype(np.float32) for n, size in enumerate(sizes)]


def weights():
    init = jax.jit(encoder().init, out_shardings=sharding.replicated())
    return init(jax.random.key(0), jnp.asarray(views()[0]))


def passes(function, sizes=SIZES, of=None):
    """Outputs and statistics of `teacher.apart` or `teacher.by_size`."""
    params, stats = weights()
    run = jax.jit(functools.partial(function, of or encoder()))
    outputs, stats = run(params, stats, [sharding.shard_batch({"x": view})["x"] for view in views(sizes)], KEY)
    return jax.tree.map(np.asarray, (outputs, stats))


KEY = jax.random.key(1)


@jax.jit
def alone(params, stats, view):
    return encoder().apply(params, stats, view, train=True)


def test_apart_is_each_view_by_itself_with_statistics_moved_in_order(each_mesh):
    outputs, stats = passes(teacher.apart)
    params, moved = weights()
    for found, view in zip(outputs, views(), strict=True):
        wanted, moved = alone(params, moved, sharding.shard_batch({"x": view})["x"])
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert_close(stats, jax.tree.map(np.asarray, moved), rtol=1e-5, atol=1e-6)


def test_by_size_is_all_views_of_a_size_at_once(each_mesh):
    outputs, stats = passes(teacher.by_size)
    params, moved = weights()
    given, wanted = views(), []
    for group in (given[:2], given[2:]):
        whole, moved = alone(params, moved, sharding.shard_batch({"x": np.concatenate(group)})["x"])
        wanted += np.split(np.asarray(whole), len(group))
    assert len(outputs) == len(SIZES)
    for found, want in zip(outputs, wanted, strict=True):
        assert found.shape == (BATCH, 5)
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert_close(stats, jax.tree.map(np.asarray, moved), rtol=1e-5, atol=1e-6)


def test_views_together_are_not_views_apart():
    together, apart = (passes(function, (8, 8))[0] for function in (teacher.by_size, teacher.apart))
    assert np.abs(together[0] - apart[0]).max() > 0.1


def test_only_consecutive_views_share_a_pass():
    seen = []
    passes(teacher.by_size, (8, 4, 8), spy(encoder(), seen))
    assert [shape for shape, _ in seen] == [(BATCH, 8, 8, 3), (BATCH, 4, 4, 3), (BATCH, 8, 8, 3)]


@pytest.mark.parametrize("function", [teacher.apart, teacher.by_size])
def test_dropout_differs_from_pass_to_pass(function):
    whole = encoder()

    def apply(params, stats, view, *, train, key=None):
        outputs, stats = whole.apply(params, stats, view, train=train)
        assert key is not None
        return jax.random.bernoulli(key, 0.5, outputs.shape).astype(jnp.float32), stats

    # of two views of unequal sizes, each has a pass with both functions
    (one, other), _ = passes(function, (8, 4), Encoder(whole.init, apply))
    assert 0 < one.mean() < 1
    assert not np.array_equal(one, other)


def spy(watched: Encoder, seen: list[Any]) -> Encoder:
    """The same encoder; notes the shape of its first input and the key of each call in train mode."""

    def apply(params, stats, *inputs, train, key=None):
        if train:
            assert key is not None
            seen.append((inputs[0].shape, key))
        return watched.apply(params, stats, *inputs, train=train, key=key)

    return Encoder(watched.init, apply)


def spied():
    """Each method with a list that its encoders write to, the calls of a loss, and a batch."""
    picture = {f"view_{n}": view for n, view in enumerate(views((8, 8)), start=1)}
    plain = {"batch_norm": True, "bias": False}

    def parts(seen):
        backbone, projector, predictor = (
            spy(part, seen)
            for part in (resnet.resnet((1,), stem="cifar", width=4), heads.mlp((6, 5), **plain), heads.mlp((6, 5)))
        )
        return backbone, projector, predictor

    def text(seen):
        mlm, nsp = words.toy_heads()
        return bert(spy(words.toy_encoder(0.5), seen), mlm, nsp, word_table=words.word_table)

    yield "moco", lambda seen: moco(*parts(seen)[:2], queue_size=16), 2 * 2, picture
    yield "moco symmetric", lambda seen: moco(*parts(seen)[:2], queue_size=16, symmetric=True), 4 * 2, picture
    yield "moco v3", lambda seen: moco_v3(*parts(seen)), 2 * 3 + 2 * 2, picture
    yield "simclr", lambda seen: simclr(*parts(seen)[:2]), 2, picture
    yield "bert", text, 1, words.a_batch()


@pytest.mark.parametrize(("make", "calls", "batch"), [pytest.param(*rest, id=name) for name, *rest in spied()])
def test_every_pass_of_a_loss_has_a_key_of_its_own(make, calls, batch):
    seen: list[Any] = []
    method = make(seen)
    batch = jax.tree.map(jnp.asarray, batch)
    params, aux = jax.jit(method.init)(jax.random.key(0), batch)
    seen.clear()

    @jax.jit
    def keys(params, aux, key):
        method.loss(params, aux, batch, key, jnp.int32(0))
        return jnp.stack([jax.random.key_data(key) for _, key in seen])

    found = np.asarray(keys(params, aux, jax.random.key(7)))
    assert len(found) == calls
    assert len(np.unique(found, axis=0)) == calls
    other = np.asarray(keys(params, aux, jax.random.key(8)))
    assert len(np.unique(np.concatenate([found, other]), axis=0)) == 2 * calls


def test_features_are_those_of_eval_mode_and_the_backbone_is_what_is_exported():
    params, stats = weights()
    backbone, projector = resnet.resnet((1,), stem="cifar", width=4), heads.mlp((6, 5), batch_norm=True, bias=False)
    image = jnp.asarray(views()[0])
    found = teacher.features(backbone, projector, params, stats, image)
    outputs, _ = backbone.apply(params["backbone"], stats["backbone"], image, train=False)
    np.testing.assert_array_equal(found["backbone"], outputs)
    embedding, _ = encoder().apply(params, stats, image, train=False)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-6)
    exported = teacher.backbone_of(params, stats)
    assert exported[0] is params["backbone"]
    assert exported[1] is stats["backbone"]
