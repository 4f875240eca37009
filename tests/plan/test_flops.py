"""Operations against counts made by hand, and against the published ones of ResNet-50 and BERT-base."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.models import bert, resnet
from ssljax.plan.flops import count
from ssljax.text import task as text


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(x, kernel, stride=1, groups=1):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=dims, feature_group_count=groups
    )


@pytest.mark.parametrize(
    ("function", "args", "by_hand"),
    [
        (jnp.matmul, (shaped(5, 7), shaped(7, 3)), 2 * 5 * 7 * 3),
        (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (shaped(4, 5, 6), shaped(4, 7, 6)), 2 * 4 * 5 * 6 * 7),
        (convolve, (shaped(2, 8, 8, 3), shaped(3, 3, 3, 5)), 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)),
        (lambda x, k: convolve(x, k, 2), (shaped(2, 8, 8, 3), shaped(3, 3, 3, 5)), 2 * (2 * 4 * 4 * 5) * 27),
        (lambda x, k: convolve(x, k, 1, 4), (shaped(2, 8, 8, 4), shaped(3, 3, 1, 8)), 2 * (2 * 8 * 8 * 8) * 9),
        (lambda x: x + jnp.sin(x), (shaped(9, 9),), 0),
        (jax.jit(jnp.matmul), (shaped(5, 7), shaped(7, 3)), 2 * 5 * 7 * 3),
        (jax.checkpoint(jnp.matmul), (shaped(5, 7), shaped(7, 3)), 2 * 5 * 7 * 3),
        (
            lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x @ x @ x),
            (shaped(4, 4),),
            2 * (2 * 4**3),
        ),
        (lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=6)[0], (shaped(4, 4),), 6 * 2 * 4**3),
    ],
)
def test_against_counts_by_hand(function, args, by_hand):
    assert count(function, *args).total == by_hand


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 4), (1, 4)])
def test_each_gradient_of_a_convolution_costs_as_much_as_the_convolution(stride, groups):
    x, kernel = shaped(2, 16, 16, 4), shaped(3, 3, 4 // groups, 8)
    forward = count(lambda x, k: convolve(x, k, stride, groups), x, kernel).convolution
    both = jax.grad(lambda x, k: convolve(x, k, stride, groups).sum(), argnums=(0, 1))
    assert count(both, x, kernel).convolution == 3 * forward


def test_recomputing_counts_again():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    w, x = shaped(6, 6), shaped(4, 6)
    plain = count(jax.grad(loss), w, x).total
    assert plain == 2 * (2 * 4 * 6 * 6)
    assert count(jax.grad(jax.checkpoint(loss)), w, x).total == 3 * (2 * 4 * 6 * 6)


def test_on_devices_the_whole_is_counted():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(lambda x: x @ x.T, in_specs=spec, out_specs=spec)
    with jax.set_mesh(mesh):
        assert count(lambda x: mapped(jax.reshard(x, spec)), shaped(8, 3)).total == 4 * (2 * 2 * 3 * 2)


@pytest.mark.parametrize(("parts", "products"), [({"cpu": 3, "default": 1}, 1), ({"tpu": 2, "default": 3}, 2)])
def test_of_what_depends_on_the_platform_a_tpus_part_counts(parts, products):
    def times(count):
        return lambda x: functools.reduce(jnp.matmul, [x] * (count + 1))

    found = count(lambda x: jax.lax.platform_dependent(x, **{k: times(n) for k, n in parts.items()}), shaped(4, 4))
    assert found.total == products * 2 * 4**3


def test_float32_at_the_highest_precision_is_six_products():
    exact = count(lambda a: jnp.matmul(a, a, precision="highest"), shaped(4, 4))
    assert (exact.total, exact.passes) == (2 * 4**3, 6 * 2 * 4**3)
    half = jax.ShapeDtypeStruct((4, 4), jnp.bfloat16)
    assert count(lambda a: jnp.matmul(a, a, precision="highest"), half).passes == 2 * 4**3


def test_resnet50_has_its_published_operations():
    encoder = resnet.resnet((3, 4, 6, 3), bottleneck=True)
    images = shaped(1, 224, 224, 3)
    params, stats = jax.eval_shape(encoder.init, jax.random.key(0), images)
    found = count(lambda p, s, x: encoder.apply(p, s, x, train=False)[0], params, stats, images)
    # 4.09 GMAC with the classifier of 2.05 M, of torchvision's model cards
    np.testing.assert_allclose(found.total / 2, 4.09e9 - 2.048e6, rtol=0.002)


def test_bert_base_has_its_published_operations():
    shape = bert.SIZES["base"]
    parts = text.build(shape)
    batch, length = 1, 128
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    params, stats = jax.eval_shape(parts.encoder.init, jax.random.key(0), tokens, tokens, lengths)
    found = count(lambda p, s, *x: parts.encoder.apply(p, s, *x, train=False)[0], params, stats, *[tokens] * 2, lengths)
    # a layer: 12 H^2 weights at each token, and scores and mixing of L keys; 22.4 GFLOP in all, with the pooler
    layers = 12 * (2 * 12 * 768**2 * length + 2 * 2 * length**2 * 768)
    assert layers <= found.total <= layers + 2 * 768**2 * length
    np.testing.assert_allclose(found.total, 22.4e9, rtol=0.02)
