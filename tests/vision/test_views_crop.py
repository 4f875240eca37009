import jax
import numpy as np
import pytest
from PIL import Image

from ssljax.vision import views
from tests.oracles import expected, views_oracles
from tests.vision.test_views_color import assert_uniform

DRAWS = 4000
# (height, width) of the image, box (top, left, height, width), size
CASES = [
    ((40, 48), (0, 0, 40, 48), 16),
    ((40, 48), (3, 5, 30, 20), 16),
    ((40, 48), (10, 7, 9, 11), 32),
    ((40, 48), (39, 47, 1, 1), 8),
    ((40, 48), (0, 40, 40, 8), 24),
    ((97, 61), (20, 1, 77, 59), 32),
    ((32, 32), (0, 0, 32, 32), 32),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shape", "box", "size"), CASES)
def test_crop_equals_pillow(shape, box, size, flip, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, channels), np.uint8)
    top, left, height, width = box
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    cut = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    theirs = np.asarray(cut, np.float32).reshape(size, size, channels) / 255
    theirs = theirs[:, ::-1] if flip else theirs
    error = np.abs(np.asarray(views.resized_crop(pixels, np.array(box), size, flip)) - theirs)
    # Pillow rounds to 8 bits after each axis: half a level each, the first averaged by the second
    assert error.max() <= 1.01 / 255
    assert error.mean() <= 0.35 / 255


_crop = jax.jit(views.resized_crop, static_argnames=("size", "interpolation"))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_crop_of_floats_equals_torchvision(mode):
    theirs = expected("views_crops_torchvision")
    for number, (shape, box, size) in enumerate(views_oracles.CROPS):
        image, wanted = views_oracles.crop_image(*shape), theirs[f"{mode}_{number}"]
        for flip in (False, True):
            ours = _crop(image, np.array(box), size=size, flip=flip, interpolation=mode)
            np.testing.assert_allclose(ours, wanted[:, ::-1] if flip else wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("height", "width", "size"), [(41, 58, 11), (37, 29, 40)])
def test_bicubic_crop_of_random_boxes_equals_pillow(height, width, size):
    rng = np.random.default_rng(2)
    # a smooth picture far from black and white: Pillow clips to uint8 after each axis, ours does not
    pixels = np.array(Image.fromarray(rng.integers(64, 192, (7, 7, 3), np.uint8)).resize((width, height)))
    for _ in range(30):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        tall, wide = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
        cut = Image.fromarray(pixels[top : top + tall, left : left + wide])
        theirs = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
        ours = _crop(pixels, np.array([top, left, tall, wide]), size=size, interpolation="bicubic")
        assert np.abs(ours - theirs).max() <= 1.3 / 255  # a half level, after a half that negative weights stretch


def test_crop_of_floats_keeps_their_units():
    image = np.random.default_rng(1).normal(size=(7, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(views.resized_crop(image, np.array([0, 0, 7, 7]), 7), image, atol=1e-6, rtol=0)


def _boxes(height, width, scale, draws=DRAWS, seed=0):
    keys = jax.random.split(jax.random.key(seed), draws)
    sample = jax.jit(jax.vmap(lambda key: views.sample_crop(key, height, width, scale)))
    return np.asarray(sample(keys))


@pytest.mark.parametrize(("height", "width", "scale"), views_oracles.BOXES)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    ours = np.sort(_boxes(height, width, scale), axis=0)
    theirs = expected("views_boxes_torchvision")[f"{height}x{width}"]
    for column in range(4):
        grid = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        below = [np.searchsorted(x[:, column], grid, side="right") / len(x) for x in (ours, theirs)]
        # two-sample Kolmogorov-Smirnov, 4000 each, p = .001
        assert np.abs(below[0] - below[1]).max() < 1.95 * np.sqrt(2 / DRAWS)


def test_area_and_log_ratio_are_uniform():
    # an image so large that rounding to pixels is invisible, and boxes so small that the first draw fits
    boxes = _boxes(10_000, 10_000, (0.1, 0.5), draws=20_000)
    height, width = boxes[:, 2].astype(float), boxes[:, 3].astype(float)
    assert_uniform((height * width / 1e8 - 0.1) / 0.4)
    assert_uniform((np.log(width / height) / np.log(4 / 3) + 1) / 2)
    assert_uniform((boxes[:, 0] + 0.5) / (10_001 - height))
    assert_uniform((boxes[:, 1] + 0.5) / (10_001 - width))


@pytest.mark.parametrize(
    ("height", "width", "box"), [(20, 100, (0, 36, 20, 27)), (100, 20, (36, 0, 27, 20)), (30, 30, (0, 0, 30, 30))]
)
def test_boxes_that_cannot_fit_fall_back_to_the_centre(height, width, box):
    if height == width:
        boxes = _boxes(height, width, (1.0, 1.0), draws=50)
        assert (boxes == box).all(1).any()
    else:
        boxes = _boxes(height, width, (0.99, 1.0), draws=50)
        assert (boxes == box).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (33, 32)])
def test_boxes_lie_in_the_image(height, width):
    top, left, tall, wide = _boxes(height, width, (0.01, 1.0), draws=2000).T
    assert min(top.min(), left.min()) >= 0
    assert min(tall.min(), wide.min()) >= 1
    assert (top + tall).max() <= height
    assert (left + wide).max() <= width


def test_the_compiled_crop_only_multiplies():
    crop = jax.jit(jax.vmap(lambda image, box, flip: views.resized_crop(image, box, 32, flip)))
    compiled = crop.lower(np.zeros((8, 40, 48, 3), np.uint8), np.zeros((8, 4), np.int32), np.zeros(8, bool)).compile()
    text = str(compiled.as_text())
    assert "dot" in text
    assert "gather" not in text
    assert "while" not in text
