"""Convolutions as matmuls on CPUs give the values and the gradients of XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssljax import sharding
from ssljax.models.cpu import convolution, first, patches, strided, winograd

# side of the kernel and stride, by module
WAYS = {
    winograd: [(3, 1)],
    strided: [(3, 2), (1, 2)],
    patches: [(3, 1), (3, 2)],
    first: [(7, 2)],
}
ALL = [(module, way) for module, ways in WAYS.items() for way in ways]
# batch, height, width, channels in and out
WHOLE = [(4, 8, 8, 24, 32), (7, 5, 6, 32, 24), (1, 1, 1, 24, 24), (2, 9, 3, 40, 40), (6, 32, 32, 64, 64)]
HALVED = [(4, 8, 8, 24, 32), (7, 6, 10, 32, 24), (1, 2, 2, 24, 24), (2, 4, 12, 40, 16), (6, 32, 32, 64, 128)]
CASES = [
    *((winograd, (3, 1), shape) for shape in (*WHOLE, (3, 16, 8, 256, 128), (2, 12, 4, 128, 128))),
    *((strided, way, shape) for way in WAYS[strided] for shape in HALVED),
    *((patches, way, shape) for way in WAYS[patches] for shape in (*WHOLE, *HALVED, (5, 4, 3, 17, 16))),
    *((first, (7, 2), shape) for shape in (*HALVED, (5, 32, 28, 3, 16), (8, 64, 64, 1, 24), (3, 8, 8, 16, 8))),
]


def drawn(shape, way=(3, 1), seed=0):
    rng = np.random.default_rng(seed)
    (batch, height, width, channels, features), (side, stride) = shape, way
    x = rng.standard_normal((batch, height, width, channels), np.float32)
    kernel = rng.standard_normal((side, side, channels, features), np.float32) / 10
    return x, kernel, rng.standard_normal((batch, -(-height // stride), -(-width // stride), features), np.float32)


def plain(x, kernel, stride=1):
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def with_gradients(convolve, stride=1):
    def run(x, kernel, cotangent):
        result, back = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
        return result, *back(cotangent)

    return jax.jit(run)


def assert_close(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-5 * np.abs(their).max())


def by(module):
    """The convolution by a module, as a function of the inputs, the kernel and the stride."""
    return functools.partial(convolution.convolve, module=module)


@pytest.mark.parametrize(("module", "way", "shape"), CASES)
def test_values_and_gradients_are_those_of_xlas_convolution(module, way, shape):
    arrays, stride = drawn(shape, way), way[1]
    assert_close(with_gradients(by(module), stride)(*arrays), with_gradients(plain, stride)(*arrays))


@pytest.mark.parametrize(("module", "way"), ALL)
def test_values_and_gradients_are_the_same_on_every_mesh(each_mesh, module, way):
    x, kernel, cotangent = map(jnp.asarray, drawn((16, 8, 8, 24, 24), way))
    theirs = [np.asarray(each) for each in with_gradients(plain, way[1])(x, kernel, cotangent)]
    if each_mesh:
        x, cotangent, kernel = sharding.shard(x), sharding.shard(cotangent), sharding.gather(kernel)
    ours = with_gradients(by(module), way[1])(x, kernel, cotangent)
    if each_mesh:
        assert [len(each.addressable_shards) for each in ours] == [each_mesh] * 3
        assert ours[2].is_fully_replicated
    assert_close(ours, theirs)


@pytest.mark.parametrize(("module", "way"), ALL)
def test_it_can_be_mapped_and_a_gradient_taken_of_each_image(module, way):
    x, kernel, cotangent = drawn((3, 6, 6, 24, 24), way)

    def gradients(convolve):
        one = jax.grad(lambda kernel, x, g: (convolve(x[None], kernel, way[1])[0] * g).sum())
        return jax.jit(jax.vmap(one, (None, 0, 0)))(kernel, x, cotangent)

    assert_close(gradients(by(module)), gradients(plain))


def primitives(function, *args):
    return str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize(
    ("shape", "way", "module"),
    [
        ((2, 8, 8, 64, 64), (3, 1), winograd),
        ((2, 8, 8, 64, 64), (3, 2), strided),
        ((2, 4, 4, 128, 256), (1, 2), strided),
        ((2, 7, 8, 64, 64), (3, 1), patches),
        ((2, 2, 2, 512, 512), (3, 1), patches),
        ((2, 8, 8, 32, 64), (3, 2), patches),
        ((2, 8, 8, 3, 64), (3, 1), None),
        ((2, 7, 7, 64, 64), (1, 2), None),
        ((2, 8, 8, 64, 64), (1, 1), None),
        ((2, 32, 32, 3, 8), (7, 2), first),
        ((2, 31, 32, 3, 8), (7, 2), None),
    ],
)
def test_what_is_chosen(shape, way, module):
    x, kernel, _ = map(jnp.asarray, drawn(shape, way))
    assert convolution.choose(x, kernel, way[1]) is module


OTHERS = ["dtype", "stride", "padding", "kernel", "channels", "groups", "dilation"]


@pytest.mark.parametrize("option", OTHERS)
def test_every_other_convolution_is_xlas_own(option):
    x, kernel, _ = drawn((2, 8, 8, 64, 64))
    strides, padding, options = (1, 1), [(1, 1)] * 2, {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    match option:
        case "dtype":
            x, kernel = jnp.bfloat16(x), jnp.bfloat16(kernel)
        case "stride":
            strides = (1, 2)
        case "padding":
            padding = [(0, 0)] * 2
        case "kernel":
            kernel = kernel[:1, :1]
        case "channels":
            x, kernel = x[..., :3], kernel[:, :, :3]
        case "groups":
            kernel, options = kernel[:, :, :32], options | {"feature_group_count": 2}
        case _:
            options |= {"rhs_dilation": (2, 2)}
    ours = functools.partial(convolution.conv_general_dilated, strides=strides, padding=padding, **options)
    theirs = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    assert primitives(ours, x, kernel) == primitives(theirs, x, kernel)


def test_only_a_cpu_takes_the_special_path(monkeypatch):
    x, kernel, _ = drawn((2, 8, 8, 64, 64))

    def ours(x, kernel):
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return convolution.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2, **options)

    assert "custom_vjp" in primitives(ours, x, kernel)
    # compiled on a CPU for a TPU it is a plain convolution
    text = jax.jit(ours).trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "dot_general" not in text
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    # another function object: JAX keeps what it has traced
    assert primitives(lambda *both: ours(*both), x, kernel) == primitives(plain, x, kernel)
