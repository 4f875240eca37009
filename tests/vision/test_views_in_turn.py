"""What a CPU does with large images: one after the other, by branches; equal to what accelerators do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.vision import views
from ssljax.vision.views import View, batched, per_image
from ssljax.vision.views.drawn import draw

PLAIN = {"mean": (0.0,), "std": (1.0,)}
RECIPES = {
    "moco_v1": views.moco_v1().recipes[0],
    "moco_v2": views.moco_v2().recipes[0],
    "byol": views.byol().recipes[1],
    "cifar": views.cifar().recipes[0],
}
LARGE = replace(RECIPES["moco_v2"], **PLAIN)


def _images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _both(view, images, seed):
    keys = jax.random.split(jax.random.key(seed), len(images))

    def one(apply):
        return lambda pair: apply(pair[1], draw(pair[0], images.shape[1], images.shape[2], view), view)

    together = jax.jit(jax.vmap(one(batched.apply)))((keys, images))
    return together, jax.jit(lambda pairs: jax.lax.map(one(per_image.apply), pairs))((keys, images))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("moco_v1", (8, 64, 64, 3), 64),
        ("moco_v2", (8, 70, 51, 3), 33),
        ("moco_v2", (8, 40, 130, 1), 45),
        ("byol", (8, 20, 24, 3), 67),
        ("cifar", (8, 97, 40, 3), 8),
    ],
)
def test_both_ways_give_the_same_views(name, shape, size, interpolation):
    view = replace(RECIPES[name], size=size, interpolation=interpolation, solarize_threshold=0.7, **PLAIN)
    together, in_turns = _both(view, jnp.asarray(_images(*shape)), seed=size)
    assert together.shape == (shape[0], size, size, shape[3])
    np.testing.assert_allclose(in_turns, together, atol=1e-5, rtol=0)


def test_views_of_whole_images_are_the_same_both_ways():
    view = View(size=40, scale=None, jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, grey=0.5, blur=0.5, blur_kernel=9)
    together, in_turns = _both(view, jnp.asarray(_images(8, 40, 40, 3)), seed=1)
    np.testing.assert_allclose(in_turns, together, atol=1e-5, rtol=0)


def test_large_images_go_in_turn_on_a_cpu_and_together_on_a_tpu():
    recipe, key = replace(RECIPES["moco_v2"], size=96), jax.eval_shape(lambda: jax.random.key(0))
    large = jax.ShapeDtypeStruct((2, 100, 96, 3), np.uint8)
    traced = jax.jit(lambda key, images: views.augment(key, images, recipe)).trace(key, large)
    assert "while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "while" not in text
    assert "gather" not in text


@pytest.fixture(scope="module", params=["bilinear", "bicubic"])
def large_views(request):
    view = replace(LARGE, interpolation=request.param)
    return view, np.asarray(views.augment(jax.random.key(3), _images(8, 99, 97, 3), view))


def test_views_of_large_images_are_the_same_on_every_mesh(large_views, each_mesh):
    images = sharding.shard(jnp.asarray(_images(8, 99, 97, 3)))
    view, without_mesh = large_views
    ours = views.augment(jax.random.key(3), images, view)
    if each_mesh:
        assert len(ours.addressable_shards) == each_mesh
    np.testing.assert_allclose(ours, without_mesh, atol=2e-5, rtol=0)
