from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.types import BadInputError
from ssljax.vision import views
from ssljax.vision.views import View
from tests.vision.test_views_color import assert_frequency, assert_uniform

draw = jax.jit(lambda key, images, recipe: recipe(key, image=images), static_argnums=2)


def _images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


PRESETS = {
    #            scale       jitter              prob grey  blur       solarize
    "moco_v1": ((0.2, 1.0), (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, (0.0, 0.0), (0.0, 0.0)),
    "moco_v2": ((0.2, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, (0.5, 0.5), (0.0, 0.0)),
    "simclr": ((0.08, 1.0), (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, (0.5, 0.5), (0.0, 0.0)),
    "byol": ((0.08, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, (1.0, 0.1), (0.0, 0.2)),
    "moco_v3": ((0.2, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, (1.0, 0.1), (0.0, 0.2)),
    "cifar": ((0.08, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, (0.0, 0.0), (0.0, 0.0)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_published_recipes(name):
    scale, jitter, prob, grey, blur, solarize = PRESETS[name]
    if name == "cifar":
        size, mean, std = 32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    else:
        size, mean, std = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    recipe = getattr(views, name)()
    for i, view in enumerate(recipe.recipes):
        assert asdict(view) == {
            "size": size,
            "scale": scale,
            "ratio": (3 / 4, 4 / 3),
            "interpolation": "bilinear",
            "flip": 0.5,
            "jitter": jitter,
            "jitter_prob": prob,
            "grey": grey,
            "blur": blur[i],
            "blur_sigma": (0.1, 2.0),
            "blur_kernel": None,
            "solarize": solarize[i],
            "solarize_threshold": 0.5,
            "mean": mean,
            "std": std,
        }
        assert view.taps == {224: 23, 32: 3}[size]
    on_host = getattr(views, name)(size=64, on_host=True)
    assert on_host == views.Views(tuple(replace(view, size=64) for view in recipe.recipes), on_host=True)


BYOL = replace(views.byol(12).recipes[0], mean=(0.0,), std=(1.0,), blur=0.5, solarize=0.5)


@pytest.fixture(scope="module")
def without_mesh():
    return np.asarray(views.augment(jax.random.key(3), _images(16, 18, 15, 3), BYOL))


def test_views_are_the_same_on_every_mesh(without_mesh, each_mesh):
    images = jnp.asarray(_images(16, 18, 15, 3))
    ours = views.augment(jax.random.key(3), sharding.shard(images), BYOL)
    assert (ours.shape, ours.dtype) == ((16, 12, 12, 3), jnp.float32)
    np.testing.assert_allclose(ours, without_mesh, atol=2e-6, rtol=0)


def test_one_channel_is_augmented_as_a_grey_image_of_three():
    image, key = _images(8, 18, 15, 1), jax.random.key(4)
    one, three = views.augment(key, image, BYOL), views.augment(key, np.tile(image, 3), BYOL)
    # solarize jumps at .5, where rounding may fall on either side
    close = np.abs(np.asarray(one) - np.asarray(three)) < 1e-5
    assert close.mean() > 0.999


def test_the_whole_pipeline_lowers_for_a_tpu_without_gathers_or_loops():
    key, plain = jax.random.key(0), views.Views((replace(BYOL, size=224),))
    for recipe, channels in ((views.moco_v2(), 3), (views.byol(), 3), (plain, 13)):
        images = jax.ShapeDtypeStruct((8, 256, 256, channels), jnp.uint8)
        lowered = draw.trace(key, images, recipe).lower(lowering_platforms=("tpu",))
        text = str(lowered.as_text())
        assert "dot_general" in text
        assert "gather" not in text
        assert "while" not in text


def test_augment_is_its_operations_in_order():
    # every coin certain, every amount a point: the result is then a fixed composition of the blocks
    view = View(
        size=20,
        scale=None,
        flip=1.0,
        grey=1.0,
        blur=1.0,
        blur_sigma=(0.7, 0.7),
        solarize=1.0,
        mean=(0.5,),
        std=(0.25,),
    )
    image = _images(2, 20, 20, 3)
    ours = views.augment(jax.random.key(0), image, view)
    for row, pixels in zip(ours, image, strict=True):
        expected = views.to_grey(pixels[:, ::-1].astype(np.float32) / 255)
        expected = views.solarize(views.gaussian_blur(expected, 0.7, view.taps))
        np.testing.assert_allclose(row, (expected - 0.5) / 0.25, atol=1e-5, rtol=0)


def test_the_bare_view_is_normalize():
    image, view = _images(4, 9, 9, 3), View(size=9, scale=None, flip=0.0, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    ours = views.augment(jax.random.key(0), image, view)
    np.testing.assert_allclose(ours, views.normalize(image, view.mean, view.std), atol=1e-5, rtol=0)
    by_hand = (image / 255 - np.array(view.mean)) / np.array(view.std)
    np.testing.assert_allclose(ours, by_hand, atol=1e-5, rtol=0)


N = 4000


def _many(pixels, **recipe):
    """View of N copies of one tiny image, and that image in [0, 1]."""
    view = View(size=len(pixels), **{"scale": None, "flip": 0.0, **recipe})
    return np.asarray(views.augment(jax.random.key(7), np.tile(pixels[None], (N, 1, 1, 1)), view)), pixels / 255


def test_flips_greys_and_solarizations_happen_as_often_as_asked():
    pixels = _images(4, 4, 3)
    flipped, plain = _many(pixels, flip=0.5)
    mirrored = np.abs(flipped - plain[:, ::-1]).max((1, 2, 3)) < 1e-5
    assert_frequency(mirrored, 0.5)
    np.testing.assert_allclose(flipped[~mirrored], np.tile(plain, (N - mirrored.sum(), 1, 1, 1)), atol=1e-6)
    grey, _ = _many(pixels, grey=0.2)
    assert_frequency(np.ptp(grey, axis=3).max((1, 2)) < 1e-6, 0.2)
    solarized, _ = _many(pixels, solarize=0.3)
    assert_frequency(np.abs(solarized - plain).max((1, 2, 3)) > 1e-3, 0.3)
    jittered, _ = _many(pixels, jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8)
    assert_frequency(np.abs(jittered - plain).max((1, 2, 3)) > 1e-5, 0.8)


def test_flip_of_a_random_crop_happens_as_often_as_asked():
    ramp = np.tile(np.linspace(0, 255, 12).astype(np.uint8)[None, :, None], (12, 1, 1))
    crops, _ = _many(ramp, scale=(0.2, 1.0), flip=0.5)
    assert_frequency(crops[:, 0, -1, 0] < crops[:, 0, 0, 0], 0.5)


def test_blurs_happen_as_often_as_asked_with_uniform_sigma():
    dot = np.zeros((9, 9, 1), np.uint8)
    dot[4, 4] = 255
    blurred, _ = _many(dot, blur=0.5, blur_sigma=(0.5, 2.0), blur_kernel=3)
    centre, beside = blurred[:, 4, 4, 0], blurred[:, 4, 5, 0]
    did = centre < 0.99
    assert_frequency(did, 0.5)
    # beside / centre = exp(-1 / (2 sigma^2)) inverts to sigma
    sigma = np.sqrt(-0.5 / np.log(beside[did] / centre[did]))
    assert_uniform((sigma - 0.5) / 1.5)


def test_views_and_images_are_drawn_apart():
    images = np.tile(_images(1, 16, 16, 3), (6, 1, 1, 1))
    batch = draw(jax.random.key(0), images, views.cifar(8))
    rows = np.concatenate([np.asarray(v).reshape(6, -1) for v in batch.values()])
    distances = np.abs(rows[:, None] - rows[None]).max(2) + np.eye(12)
    assert distances.min() > 1e-3
    again = draw(jax.random.key(0), images, views.cifar(8))
    np.testing.assert_array_equal(batch["view_1"], again["view_1"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"scale": (0.5, 1.5)}, "scale="),
        ({"scale": (0.0, 1.0)}, "scale="),
        ({"ratio": (2.0, 1.0)}, "ratio="),
        ({"interpolation": "nearest"}, "interpolation='nearest'"),
        ({"flip": 1.1}, "flip=1.1"),
        ({"grey": -0.1}, "grey=-0.1"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "jitter="),
        ({"jitter": (0.4, 0.4)}, "jitter="),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma="),
        ({"blur_kernel": 4}, "blur_kernel=4"),
        ({"size": 8, "blur_kernel": 17}, "blur_kernel=17"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, "mean="),
        ({"mean": (), "std": ()}, "mean="),
        ({"mean": (0.5,) * 17, "std": (1.0,) * 17}, "mean="),
        ({"mean": (0.5,), "std": (0.0,)}, "std="),
    ],
)
def test_impossible_recipes_are_refused(fields, message):
    with pytest.raises(BadInputError, match=message):
        View(**fields)


@pytest.mark.parametrize(
    ("images", "view", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), View(size=8), "float32"),
        (np.zeros((2, 8, 8, 17), np.uint8), View(size=8), "with 1 to 16 channels"),
        (np.zeros((8, 8, 3), np.uint8), View(size=8), "uint8"),
        (np.zeros((2, 9, 8, 3), np.uint8), View(size=8, scale=None), "8 x 8"),
        (np.zeros((2, 8, 8, 1), np.uint8), views.cifar(8).recipes[0], "mean and std"),
    ],
)
def test_images_that_do_not_fit_the_recipe_are_refused(images, view, message):
    with pytest.raises(BadInputError, match=message):
        views.augment(jax.random.key(0), images, view)


def test_recipes_hash_and_lists_become_tuples():
    lists: dict[str, Any] = {"scale": [0.2, 1.0], "mean": [0.5], "std": [0.5]}
    assert hash(View(**lists)) == hash(View(scale=(0.2, 1.0), mean=(0.5,), std=(0.5,)))
    assert hash(views.moco_v2()) == hash(views.moco_v2())
    assert len({getattr(views, name)() for name in PRESETS}) == 6
