"""Pictures of any number of channels, by an oracle in NumPy: each channel as a grey picture, but for the contrast."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax import optim, sharding
from ssljax.methods.moco import moco
from ssljax.models import heads, resnet
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from ssljax.types import BadInputError
from ssljax.vision import views
from ssljax.vision.pictures import Crop, crops_by_size, resize_center
from ssljax.vision.views import View, Views, batched, per_image
from ssljax.vision.views.drawn import draw

CHANNELS = [2, 4, 13]
RECIPE = View(20, (0.3, 1.0), jitter=(0.4, 0.6, 0.4, 0.2), jitter_prob=0.8, grey=0.5, blur=0.5, blur_kernel=5,
              solarize=0.5, solarize_threshold=0.6)  # fmt: skip


def _images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _weights(start, length, before, after):
    """Pillow's antialiased triangle, as a matrix in float64."""
    centres = start + (np.arange(after)[:, None] + 0.5) * length / after
    pixels = np.arange(before)[None]
    weights = np.maximum(0, 1 - np.abs(pixels + 0.5 - centres) / max(length / after, 1))
    weights *= (pixels >= start) & (pixels < start + length)
    return weights / weights.sum(1, keepdims=True)


def _blurred(plane, sigma, taps):
    kernel = np.exp(-0.5 * ((np.arange(taps) - taps // 2) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (taps // 2, taps // 2)
        padded = np.pad(plane, width, mode="reflect")
        plane = np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), axis, padded)
    return plane


def oracle(image, drawn, view):
    """The view by its definition, one operation after the other."""
    top, left, height, width = (int(x) for x in drawn.box)
    rows = _weights(top, height, image.shape[0], view.size)
    columns = _weights(left, width, image.shape[1], view.size)
    x = np.einsum("oh,pw,hwc->opc", rows, columns, image / 255)
    x = x[:, ::-1] if drawn.flip else x
    brightness, contrast = np.asarray(drawn.factors)[:2].astype(float)
    for operation in np.argsort(np.asarray(drawn.ranks)):
        if operation == 0:
            x = np.minimum(brightness * x, 1)
        if operation == 1:
            x = np.clip(contrast * x + (1 - contrast) * x.mean(), 0, 1)
    if drawn.blur:
        x = np.stack([_blurred(x[..., c], float(drawn.sigma), view.taps) for c in range(x.shape[-1])], -1)
    return np.where(x >= view.solarize_threshold, 1 - x, x) if drawn.solarize else x


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("way", [batched, per_image])
def test_a_view_is_its_operations_by_definition(way, channels):
    images, keys = _images(12, 26, 31, channels), jax.random.split(jax.random.key(1), 12)
    drawn = jax.jit(jax.vmap(lambda key: draw(key, 26, 31, RECIPE)))(keys)
    found = jax.jit(lambda pairs: jax.lax.map(lambda pair: way.apply(*pair, RECIPE), pairs))((images, drawn))
    assert found.shape == (12, 20, 20, channels)
    for i, image in enumerate(images):
        wanted = oracle(image, jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), drawn), RECIPE)
        # solarize jumps at its threshold, where rounding may fall on either side
        close = np.abs(found[i] - wanted) < 2e-5
        assert close.mean() > 0.998, i


@settings(max_examples=16, deadline=None)
@given(st.integers(1, 16).filter(lambda c: c != 3), st.floats(0.0, 2.0))
def test_operations_on_any_number_of_channels(channels, factor):
    image = np.random.default_rng(channels).random((7, 9, channels), np.float32)
    for axis, x in ((2, image), (0, np.moveaxis(image, 2, 0))):
        for unchanged in (
            views.adjust_hue(x, factor / 4, axis),
            views.adjust_saturation(x, factor, axis),
            views.to_grey(x, axis),
        ):
            np.testing.assert_array_equal(unchanged, x)
        contrast = np.clip(factor * x + (1 - factor) * image.mean(dtype=float), 0, 1)
        np.testing.assert_allclose(views.adjust_contrast(x, factor, axis), contrast, atol=2e-6, rtol=0)
    np.testing.assert_allclose(views.adjust_brightness(image, factor), np.minimum(factor * image, 1), atol=1e-6)
    box = np.array([1, 2, 5, 6])
    for operation in (lambda x: views.gaussian_blur(x, 0.8, 3), lambda x: views.resized_crop(x, box, 6, True)):
        each = np.concatenate([operation(image[..., c : c + 1]) for c in range(channels)], -1)
        np.testing.assert_allclose(operation(image), each, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 16), st.integers(1, 90), st.integers(1, 90), st.sampled_from(["bilinear", "bicubic"]), st.integers(0)
)
def test_crops_on_the_host_are_those_of_each_channel(channels, height, width, interpolation, seed):
    image = _images(height, width, channels)
    crops = crops_by_size((Crop(9, interpolation=interpolation), Crop(5)))
    for transform, name in ((crops, "crops_9"), (crops, "crops_5"), (resize_center(7, 8, interpolation), "image")):
        whole, *each = (
            transform({"image": pixels}, np.random.default_rng(seed))[name]
            for pixels in (image, *np.split(image, channels, axis=2))
        )
        assert (whole.dtype, whole.shape[-1]) == (np.uint8, channels)
        np.testing.assert_array_equal(whole, np.concatenate(each, -1))


@pytest.fixture(scope="module", params=[20, 98])
def without_mesh(request):
    """Views together, and one by one, without a mesh; means of five channels."""
    view = replace(RECIPE, size=request.param, mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(0.5, 0.4, 0.3, 0.2, 0.1))
    images = _images(8, 98, 99, 5)
    return view, images, np.asarray(views.augment(jax.random.key(3), images, view))


@pytest.mark.parametrize("devices", [1, 8])
def test_views_of_five_channels_are_the_same_on_every_mesh(without_mesh, devices):
    view, images, wanted = without_mesh
    plain = np.asarray(views.augment(jax.random.key(3), images, replace(view, mean=(0.0,), std=(1.0,))))
    np.testing.assert_allclose(wanted, (plain - np.array(view.mean)) / np.array(view.std), atol=1e-5, rtol=0)
    with sharding.use_mesh(sharding.make_mesh(devices)):
        ours = views.augment(jax.random.key(3), sharding.shard(jnp.asarray(images)), view)
        assert len(ours.sharding.device_set) == devices
        np.testing.assert_allclose(ours, wanted, atol=3e-4, rtol=0)


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_mean_and_std_must_be_of_the_images_channels(channels):
    images, three = _images(2, 8, 8, channels), View(8, mean=(0.1,) * 3, std=(1.0,) * 3)
    message = rf"mean and std have 3 values; give 1 or {channels}, one a channel\.$"
    with pytest.raises(BadInputError, match=message):
        views.augment(jax.random.key(0), images, three)
    with pytest.raises(BadInputError, match=message):
        views.normalize(images, three.mean, three.std)
    with pytest.raises(BadInputError, match=message):
        Views((three,))(jax.random.key(0), image=images)


@pytest.mark.parametrize("on_host", [False, True])
def test_a_step_of_moco_on_five_channels(on_host):
    view = View(12, (0.3, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=1.0, grey=0.2, mean=(0.5,) * 5, std=(0.2,) * 5)
    both, images = Views((view, view), on_host), _images(8, 16, 18, 5)
    batch = {"image": images}
    if on_host:
        crops, rng = both.host_crops(), np.random.default_rng(0)
        assert crops is not None
        batch = {"crops_12": np.stack([crops({"image": image}, rng)["crops_12"] for image in images])}
        assert both.batch_shapes(8, 5)["crops_12"].shape == batch["crops_12"].shape
    method = moco(resnet.resnet((1,), stem="cifar", width=4), heads.mlp((8,)), queue_size=16)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    state = init_state(method, optim.sgd(0.1), both, shapes, seed=0)
    kernel = np.asarray(jax.tree.leaves(state.params)[0]).copy()
    state, metrics = compile_step(method, both, optim.sgd(0.1))(state, batch)
    assert np.isfinite(metrics["loss"])
    assert any(leaf.shape == (3, 3, 5, 4) for leaf in jax.tree.leaves(state.params))
    assert not np.array_equal(kernel, jax.tree.leaves(state.params)[0])
