import numpy as np
import pytest
from PIL import Image

from ssljax.types import BadInputError
from ssljax.vision.pictures import Crop, crop_box, crops_by_size, decode, random_crops, resize_center


def triangle_resize(image, new_height, new_width):
    """Antialiased bilinear resizing written as two weight matrices in float64."""

    def weights(old, new):
        support = max(old / new, 1.0)
        centre = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
        w = np.maximum(0, 1 - np.abs(np.arange(old)[None] - centre) / support)
        return w / w.sum(axis=1, keepdims=True)

    rows, columns = weights(image.shape[0], new_height), weights(image.shape[1], new_width)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, image.astype(float))


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 61), (80, 33), (12, 30)])
@pytest.mark.parametrize(("size", "resize"), [(16, 16), (17, 24), (20, 25)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_center(height, width, size, resize, channels):
    image = picture(height, width, channels)
    result = resize_center(size, resize)({"image": image, "label": 3}, np.random.default_rng(0))
    shorter = min(height, width)
    whole = triangle_resize(image, int(resize * height / shorter), int(resize * width / shorter))
    top, left = round((whole.shape[0] - size) / 2), round((whole.shape[1] - size) / 2)
    wanted = whole[top : top + size, left : left + size]
    assert (result["image"].shape, result["image"].dtype) == ((size, size, channels), np.uint8)
    np.testing.assert_allclose(result["image"], wanted, atol=1.01)  # Pillow rounds to integers after each axis
    assert result["label"] == 3


@pytest.mark.parametrize(("height", "width"), [(37, 61), (20, 30)])
def test_resize_center_is_bicubic_where_asked(height, width):
    image = picture(height, width)
    size = (int(24 * width / min(height, width)), int(24 * height / min(height, width)))
    wanted = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - 24) / 2), round((size[0] - 24) / 2)
    result = resize_center(24, 24, "bicubic")({"image": image}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(result, wanted[top : top + 24, left : left + 24])
    assert not np.array_equal(result, resize_center(24, 24)({"image": image}, np.random.default_rng(0))["image"])


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(30, 121), (200, 13), (3, 300), (90, 2000), (1, 40)])
@pytest.mark.parametrize(("size", "resize"), [(16, 16), (17, 24)])
def test_the_centre_of_a_strip_is_that_of_the_whole_resized(height, width, size, resize, interpolation, channels):
    # without overshoot to be clipped between the passes, whose order Pillow chooses
    image, shorter = 64 + picture(height, width, channels) // 2, min(height, width)
    whole = (int(resize * width / shorter), int(resize * height / shorter))
    method = Image.Resampling[interpolation.upper()]
    planes = [np.asarray(Image.fromarray(image[..., c]).resize(whole, method)) for c in range(channels)]
    top, left = round((whole[1] - size) / 2), round((whole[0] - size) / 2)
    wanted = np.stack(planes, -1)[top : top + size, left : left + size].astype(int)
    result = resize_center(size, resize, interpolation)({"image": image}, np.random.default_rng(0))["image"]
    assert (result.shape, result.dtype) == ((size, size, channels), np.uint8)
    np.testing.assert_allclose(result.astype(int), wanted, atol=1)


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1), (2, 100_000), (40, 20_000)])
def test_crops_of_a_strip_make_no_pictures_much_larger_than_themselves(height, width, monkeypatch):
    asked, resize = [], Image.Image.resize

    def counted(self, size, *rest):
        asked.append((size[0] * size[1], size[0] * self.size[1]))  # the result, and what Pillow makes on the way there
        return resize(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", counted)
    image, rng = picture(height, width), np.random.default_rng(0)
    assert resize_center(224, 256)({"image": image}, rng)["image"].shape == (224, 224, 3)
    assert random_crops(224, views=8)({"image": image}, rng)["image"].shape == (8, 224, 224, 3)
    assert np.max(asked) <= 224 * 256


@pytest.mark.parametrize("ratio", [(0.2, 0.4), (3.0, 4.0)])
@pytest.mark.parametrize(("height", "width"), [(1, 50), (50, 1), (1, 1)])
def test_a_strip_has_a_crop_whatever_the_ratio(height, width, ratio):
    crop = random_crops(4, ratio=ratio)({"image": picture(height, width)}, np.random.default_rng(0))["image"]
    assert crop.shape == (2, 4, 4, 3)


def test_a_crop_larger_than_the_resized_picture_is_refused():
    with pytest.raises(BadInputError, match="size=300: the central crop must lie within resize=256"):
        resize_center(300, 256)


@pytest.mark.parametrize("channels", [1, 3])
def test_random_crops_are_resized_boxes(channels):
    image = picture(30, 45, channels)
    result = random_crops(12, views=3)({"image": image}, np.random.default_rng(5))["image"]
    rng = np.random.default_rng(5)
    for crop in result:
        left, top, right, bottom = crop_box(30, 45, (0.08, 1.0), (3 / 4, 4 / 3), rng)
        wanted = triangle_resize(image[top:bottom, left:right], 12, 12)
        np.testing.assert_allclose(crop, wanted, atol=1.01)
    assert not np.array_equal(result[0], result[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_several_sizes_draw_their_boxes_in_order(channels):
    image, first, small = picture(30, 45, channels), Crop(12, interpolation="bicubic"), Crop(6, (0.05, 0.4), (1.0, 2.0))
    crops = (first, small, first, small, small)
    result = crops_by_size(crops)({"image": image, "label": 3}, np.random.default_rng(5))
    assert {name: np.shape(value) for name, value in result.items()} == {
        "crops_12": (2, 12, 12, channels),
        "crops_6": (3, 6, 6, channels),
        "label": (),
    }
    rng, made = np.random.default_rng(5), {12: iter(result["crops_12"]), 6: iter(result["crops_6"])}
    for crop in crops:
        left, top, right, bottom = crop_box(30, 45, crop.scale, crop.ratio, rng)
        cut = image[top:bottom, left:right]
        method = Image.Resampling[crop.interpolation.upper()]
        wanted = Image.fromarray(cut if channels == 3 else cut[..., 0]).resize((crop.size, crop.size), method)
        np.testing.assert_array_equal(next(made[crop.size]), np.asarray(wanted).reshape(crop.size, crop.size, channels))


def test_crops_of_one_size_are_those_of_random_crops():
    image = picture(30, 45)
    ours = crops_by_size((Crop(12, (0.2, 1.0)),) * 2)({"image": image}, np.random.default_rng(5))["crops_12"]
    np.testing.assert_array_equal(
        ours, random_crops(12, (0.2, 1.0))({"image": image}, np.random.default_rng(5))["image"]
    )


def test_the_whole_picture_is_one_possible_crop():
    image = picture(20, 20)
    result = random_crops(20, scale=(1.0, 1.0), ratio=(1.0, 1.0), views=1)
    np.testing.assert_array_equal(result({"image": image}, np.random.default_rng(0))["image"][0], image)


def test_crop_boxes_have_the_stated_distribution():
    height, width, rng = 1000, 1000, np.random.default_rng(0)
    boxes = np.array([crop_box(height, width, (0.2, 0.5), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    # uniform: mean and quartiles within four standard errors
    area = (w * h / (height * width) - 0.2) / 0.3
    ratio = (np.log(w / h) / np.log(4 / 3) + 1) / 2
    place = boxes[:, 0] / (width - w)
    for values in (area, ratio, place):
        np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.032)
        np.testing.assert_allclose(values.mean(), 0.5, atol=0.019)
        assert values.min() > -0.01
        assert values.max() < 1.01


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 100, (43, 0, 56, 10)), (100, 10, (0, 43, 10, 56)), (30, 30, (0, 0, 30, 30))],
)
def test_a_box_that_never_fits_falls_back_to_the_centre(height, width, box):
    assert crop_box(height, width, (2.0, 3.0), (3 / 4, 4 / 3), np.random.default_rng(0)) == box


def test_decode_refuses_what_is_no_picture():
    with pytest.raises(BadInputError, match="not a picture"):
        decode(b"GIF?")
