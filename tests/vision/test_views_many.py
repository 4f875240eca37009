"""`Views`: how many there are, of what size, and where they are cropped."""

import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.types import BadInputError
from ssljax.vision import views
from ssljax.vision.views import View, Views

LARGE = View(size=24, scale=(0.4, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_prob=0.8, grey=0.2, interpolation="bicubic")
SMALL = View(size=12, scale=(0.05, 0.4), grey=0.2, interpolation="bicubic")
MULTI_CROP = (LARGE, replace(LARGE, blur=0.5), *[SMALL] * 4)
SIZES = (24, 24, 12, 12, 12, 12)


_draw = jax.jit(lambda key, batch, recipes: recipes(key, **batch), static_argnums=2)


def _images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _on_host(recipes, images, seed=0):
    """The batch of a loader with these views' crops."""
    crop = recipes.host_crops()
    records = [crop({"image": image}, np.random.default_rng([seed, i])) for i, image in enumerate(images)]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


@pytest.mark.parametrize("recipes", [MULTI_CROP[:2], (SMALL,), (SMALL, LARGE, SMALL)])
@pytest.mark.parametrize("on_host", [False, True])
def test_each_view_is_its_recipe_with_its_own_key(recipes, on_host):
    drawn, images = Views(recipes, on_host), _images(3, 30, 35, 3)
    batch = _on_host(drawn, images) if on_host else {"image": images}
    keys, found = jax.random.split(jax.random.key(1), len(recipes)), _draw(jax.random.key(1), batch, drawn)
    assert tuple(found) == drawn.names == tuple(f"view_{i + 1}" for i in range(len(recipes)))
    seen = {size: iter(range(len(recipes))) for size in drawn.sizes}
    for key, view, ours in zip(keys, recipes, found.values(), strict=True):
        if on_host:
            cut = batch[f"crops_{view.size}"][:, next(seen[view.size])]
            alone = views.augment(key, cut, replace(view, scale=None))
        else:
            alone = views.augment(key, images, view)
        assert ours.shape == (3, view.size, view.size, 3)
        np.testing.assert_allclose(ours, alone, atol=1e-5, rtol=0)


@pytest.fixture(scope="module", params=[False, True], ids=["on_device", "on_host"])
def multi_crop(request):
    recipes, images = Views(MULTI_CROP, request.param), _images(8, 30, 35, 3)
    batch = _on_host(recipes, images) if request.param else {"image": images}
    return recipes, batch, jax.tree.map(np.asarray, _draw(jax.random.key(3), batch, recipes))


def test_multi_crop_is_the_same_on_every_mesh(multi_crop, each_mesh):
    recipes, batch, without_mesh = multi_crop
    found = _draw(jax.random.key(3), sharding.shard(jax.tree.map(jnp.asarray, batch)), recipes)
    for name, size in zip(recipes.names, SIZES, strict=True):
        assert (found[name].shape, found[name].dtype) == ((8, size, size, 3), jnp.float32)
        assert len(found[name].sharding.device_set) == (each_mesh or 1)
        np.testing.assert_allclose(found[name], without_mesh[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "tolerance"), [(24, 1e-5), (40, 2 / 255)])
def test_a_crop_of_everything_is_the_same_on_host_and_device(side, tolerance, interpolation):
    # Pillow rounds to 8 bits after each axis: half a level, which the jitter's factors stretch
    whole = replace(LARGE, scale=(1.0, 1.0), ratio=(1.0, 1.0), interpolation=interpolation, jitter=(0.2, 0.2, 0.0, 0.0))
    images = 64 + _images(6, side, side, 3) // 2
    on_host, on_device = Views((whole, whole), on_host=True), Views((whole, whole))
    ours = _draw(jax.random.key(2), _on_host(on_host, images), on_host)
    theirs = _draw(jax.random.key(2), {"image": images}, on_device)
    for name in on_host.names:
        np.testing.assert_allclose(ours[name], theirs[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize(("preset", "least"), [("byol", 0.08), ("moco_v2", 0.2)])
def test_crops_on_the_host_have_the_scale_of_their_views(preset, least):
    side, size = 256, 32
    rows, columns = np.indices((side, side), np.uint8)
    record = {"image": np.stack([rows, columns, rows], -1)}
    crop, rng = getattr(views, preset)(size, on_host=True).host_crops(), np.random.default_rng(0)
    crops = np.concatenate([crop(record, rng)[f"crops_{size}"] for _ in range(300)]).astype(float)
    # a pixel's value is its place: from the first to the last centre are size - 1 of size steps
    tall, wide = (np.ptp(crops[..., axis], axis=(1, 2)) * size / (size - 1) for axis in (0, 1))
    areas = tall * wide / side**2
    assert least - 0.01 < areas.min() < least + 0.02
    expected = (0.2 - least) / (1 - least)
    assert abs((areas < 0.2).mean() - expected) < 0.04


def test_bicubic_views_are_clipped():
    edges = np.repeat(_images(4, 12, 12, 3, seed=1) // 128 * np.uint8(255), 3, 1)
    plain = View(size=24, flip=0.0, interpolation="bicubic")
    ours = np.asarray(views.augment(jax.random.key(0), edges, plain))
    assert (ours.min(), ours.max()) == (0.0, 1.0)
    box = np.array([0, 0, 36, 12])
    assert np.ptp(views.resized_crop(edges[0], box, 24, interpolation="bicubic")) > 1.1


def test_host_crops_can_be_pickled_and_are_none_on_the_device():
    recipes = Views(MULTI_CROP, on_host=True)
    crop, record = recipes.host_crops(), {"image": _images(30, 35, 3), "label": 1}
    assert crop is not None
    again = pickle.loads(pickle.dumps(crop))
    ours, theirs = crop(record, np.random.default_rng(1)), again(record, np.random.default_rng(1))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert Views(MULTI_CROP).host_crops() is None


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_batch_shapes_are_those_of_the_crops(channels):
    recipes = Views(MULTI_CROP, on_host=True)
    shapes = recipes.batch_shapes(5, channels)
    found = _on_host(recipes, _images(5, 30, 35, channels))
    assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {k: (v.shape, v.dtype) for k, v in found.items()}
    traced = jax.eval_shape(lambda batch: recipes(jax.random.key(0), **batch), shapes)
    assert [view.shape for view in traced.values()] == [(5, size, size, channels) for size in SIZES]
    with pytest.raises(BadInputError, match="on_host=False"):
        Views(MULTI_CROP).batch_shapes(5)


def test_an_image_of_its_size_is_one_view():
    images, plain = _images(3, 10, 10, 3), View(size=10, scale=None, flip=1.0)
    found = _draw(jax.random.key(0), {"image": images, "label": np.arange(3)}, Views((plain,)))
    assert list(found) == ["view_1"]
    np.testing.assert_allclose(found["view_1"], images[:, :, ::-1] / 255, atol=1e-6, rtol=0)


HOST = Views((SMALL, SMALL), on_host=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Views(()), "recipes="),
        (lambda: Views(View()), "recipes is a single View"),  # type: ignore[arg-type]
        (lambda: Views((LARGE, replace(LARGE, scale=None)), on_host=True), "view_2 has scale=None"),
        (lambda: Views((LARGE,))(jax.random.key(0), label=np.zeros(3)), "the batch has label and no image"),
        (lambda: HOST(jax.random.key(0), image=_images(2, 12, 12, 3)), "the batch has image and no crops_12"),
        (lambda: HOST(jax.random.key(0)), "no fields and no crops_12"),
        (lambda: HOST(jax.random.key(0), crops_12=_images(4, 3, 12, 12, 3)), "crops_12 is uint8"),
        (lambda: HOST(jax.random.key(0), crops_12=_images(4, 2, 12, 11, 3)), "crops_12 is uint8"),
        (lambda: HOST(jax.random.key(0), crops_12=np.zeros((4, 2, 12, 12, 3), np.float32)), "crops_12 is float32"),
        (lambda: HOST(jax.random.key(0), crops_12=_images(4, 2, 12, 12, 17)), "1 to 16 channels"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(BadInputError, match=message):
        make()


def test_they_hash_and_a_list_becomes_a_tuple():
    listed = Views([LARGE, SMALL])  # type: ignore[arg-type]
    assert (listed, hash(listed)) == (Views((LARGE, SMALL)), hash(Views((LARGE, SMALL))))
    assert listed != Views((LARGE, SMALL), on_host=True)
    assert (len(listed), listed.names, listed.sizes) == (2, ("view_1", "view_2"), (24, 12))
