import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ssljax.types import BadInputError
from ssljax.vision import views
from ssljax.vision.views.color import jitter_planes, join_planes, sample_jitter, split_planes
from tests.oracles import expected, views_oracles

OURS = {
    "brightness": views.adjust_brightness,
    "contrast": views.adjust_contrast,
    "saturation": views.adjust_saturation,
    "hue": views.adjust_hue,
}
PILLOW = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
DRAWS = 24_000


@pytest.mark.parametrize("name", ["noise", "few", "no_red"])
def test_colour_operations_equal_torchvision(name):
    image, theirs = views_oracles.images()[name], expected("views_color_torchvision")
    # torchvision's red weighs .2989, Pillow's and ours .299: at most 1e-4 of red times |1 - factor| apart
    grey_tolerance = 2e-6 if name == "no_red" else 1.1e-4
    for operation, amounts in (
        ("brightness", views_oracles.FACTORS),
        ("contrast", views_oracles.FACTORS),
        ("saturation", views_oracles.FACTORS),
        ("hue", views_oracles.SHIFTS),
    ):
        tolerance = grey_tolerance if operation in ("contrast", "saturation") else 2e-6
        for amount in amounts:
            np.testing.assert_allclose(
                OURS[operation](image, amount), theirs[f"{name}_{operation}_{amount}"], atol=tolerance, rtol=0
            )
    np.testing.assert_allclose(views.to_grey(image), theirs[f"{name}_grey"], atol=grey_tolerance, rtol=0)
    np.testing.assert_allclose(views.solarize(image), theirs[f"{name}_solarize"], atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(16, 16), (9, 31)])
@pytest.mark.parametrize("factor", [0.0, 0.2, 0.6, 1.0, 1.4, 1.8])
def test_blends_equal_pillow_within_a_level(shape, factor):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    for operation, enhancer in PILLOW.items():
        theirs = np.asarray(enhancer(Image.fromarray(pixels)).enhance(factor), np.float32) / 255
        error = np.abs(np.asarray(OURS[operation](pixels.astype(np.float32) / 255, factor)) - theirs)
        assert error.mean() <= 1 / 255, (operation, error.mean())
        assert error.max() <= 2 / 255, (operation, error.max())


def test_grey_and_solarize_equal_pillow():
    pixels = np.random.default_rng(2).integers(0, 256, (20, 20, 3), np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[..., None] / 255
    np.testing.assert_allclose(views.to_grey(pixels / np.float32(255)), np.tile(grey, 3), atol=0.51 / 255, rtol=0)
    solarized = np.asarray(ImageOps.solarize(Image.fromarray(pixels), 128), np.float32) / 255
    np.testing.assert_allclose(views.solarize(pixels / np.float32(255)), solarized, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [-0.4, -0.1, 0.05, 0.3])
def test_hue_equals_pillow_on_average(shift):
    # Pillow's own HSV has 8 bits a channel, hence a tolerance on the mean only
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    hue, *rest = Image.fromarray(pixels).convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(round(shift * 255) % 256))
    theirs = np.asarray(Image.merge("HSV", (turned, *rest)).convert("RGB"), np.float32) / 255
    error = np.abs(np.asarray(views.adjust_hue(pixels / np.float32(255), shift)) - theirs)
    assert error.mean() <= 1.5 / 255


def test_one_channel_has_no_colour():
    image = np.random.default_rng(4).random((5, 6, 1), np.float32)
    for unchanged in (views.adjust_hue(image, 0.3), views.adjust_saturation(image, 0.1), views.to_grey(image)):
        np.testing.assert_array_equal(unchanged, image)
    np.testing.assert_allclose(views.adjust_contrast(image, 0.5), 0.5 * image + 0.5 * image.mean(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_applies_the_operations_in_the_drawn_order(channels):
    image = np.random.default_rng(5).random((6, 7, channels), np.float32)
    factors = np.array([1.5, 0.4, 1.8, 0.2], np.float32)
    jittered = jax.jit(lambda ranks: join_planes(jitter_planes(split_planes(image, -1), factors, ranks), -1))
    names = ("brightness", "contrast", "saturation", "hue")
    results = []
    for order in itertools.permutations(range(4)):
        one_by_one = jnp.asarray(image)
        for i in order:
            one_by_one = OURS[names[i]](one_by_one, factors[i])
        results.append(np.asarray(jittered(np.argsort(order))))
        np.testing.assert_allclose(results[-1], one_by_one, atol=3e-6, rtol=0)
    assert channels == 1 or np.ptp(results, axis=0).max() > 0.1  # the order matters on these images


def test_axis_of_the_channels():
    image = np.random.default_rng(6).random((5, 6, 3), np.float32)
    key, strengths = jax.random.key(0), (0.4, 0.4, 0.4, 0.1)
    last = views.color_jitter(key, image, strengths)
    first = views.color_jitter(key, np.moveaxis(image, -1, 0), strengths, axis=0)
    np.testing.assert_allclose(np.moveaxis(np.asarray(first), 0, -1), last, atol=1e-6, rtol=0)


def test_jitter_of_probability_0_changes_nothing():
    image = np.random.default_rng(7).random((5, 6, 3), np.float32)
    kept = views.color_jitter(jax.random.key(0), image, (0.8, 0.8, 0.8, 0.2), prob=0.0)
    np.testing.assert_allclose(kept, image, atol=1e-6, rtol=0)


def _drawn(jitter, prob):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return [np.asarray(x) for x in jax.jit(jax.vmap(lambda key: sample_jitter(key, jitter, prob)))(keys)]


def test_all_orders_are_equally_likely():
    _, ranks = _drawn((0.4, 0.4, 0.4, 0.1), 1.0)
    _, counts = np.unique(ranks, axis=0, return_counts=True)
    assert len(counts) == 24
    chi_squared = ((counts - DRAWS / 24) ** 2 / (DRAWS / 24)).sum()
    assert chi_squared < 49.7  # p = .001 with 23 degrees of freedom


def test_factors_are_uniform():
    factors, _ = _drawn((0.4, 1.5, 0.2, 0.1), 1.0)
    # a strength above 1 is cut at 0, as torchvision
    for column, (low, high) in zip(factors.T, ((0.6, 1.4), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)), strict=True):
        assert column.min() >= low - 1e-6
        assert column.max() <= high + 1e-6
        assert_uniform((column - low) / (high - low))


def test_jitter_is_applied_with_its_probability():
    factors, _ = _drawn((0.4, 0.4, 0.4, 0.1), 0.8)
    untouched = (factors == np.array([1, 1, 1, 0])).all(1)
    assert_frequency(~untouched, 0.8)
    assert (factors[~untouched] != np.array([1, 1, 1, 0])).any(1).all()


def assert_uniform(sample):
    """Kolmogorov-Smirnov against U(0, 1) at p = .001."""
    sample, n = np.sort(sample), len(sample)
    distance = max(np.max(np.arange(1, n + 1) / n - sample), np.max(sample - np.arange(n) / n))
    assert distance < 1.95 / np.sqrt(n)


def assert_frequency(happened, probability):
    """Within four standard deviations of a binomial."""
    spread = np.sqrt(probability * (1 - probability) / happened.size)
    assert abs(happened.mean() - probability) < 4 * spread


@pytest.mark.parametrize("name", ["noise", "few", "no_red"])
@pytest.mark.parametrize(("taps", "sigma"), views_oracles.BLURS)
def test_blur_equals_torchvision(name, taps, sigma):
    image = views_oracles.images()[name]
    theirs = expected("views_blur_torchvision")[f"{name}_{taps}_{sigma}"]
    ours = jax.jit(views.gaussian_blur, static_argnums=2)(image, sigma, taps)
    np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("taps", [0, 4, 21])
def test_blur_refuses_impossible_kernels(taps):
    with pytest.raises(BadInputError, match=f"taps={taps}"):
        views.gaussian_blur(np.zeros((10, 10, 3), np.float32), 1.0, taps)
