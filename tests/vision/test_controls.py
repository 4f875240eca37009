"""Raw pixels as a control: unchanged where they are few, else area means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.vision.controls import MOST, raw_features


def test_few_pixels_are_unchanged():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(raw_features(images), images.reshape(5, -1).astype(np.float32) / 255)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 16))
def test_no_picture_has_too_many_numbers_and_the_mean_is_kept(height, width, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    found = raw_features(images)
    assert found.shape[1] <= MOST
    assert found.shape[1] > MOST / 4 or found.shape[1] == height * width * channels or min(height, width) < 40
    np.testing.assert_allclose(
        found.reshape(2, -1, channels).mean(1), images.reshape(2, -1, channels).mean(1) / 255, atol=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (224, 224), (50, 97), (301, 33)])
def test_areas_are_equal_and_pixels_across_their_edges_are_shared(height, width):
    image = np.random.default_rng(1).integers(0, 256, (1, height, width, 1), dtype=np.uint8)
    found = raw_features(image, most=200)[0]
    rows = max(1, int(height * (200 / (height * width)) ** 0.5))
    columns = len(found) // rows
    # every pixel so often that whole ones fill each area
    finer = image[0, ..., 0].repeat(rows, 0).repeat(columns, 1) / 255
    wanted = finer.reshape(rows, height, columns, width).mean((1, 3))
    np.testing.assert_allclose(found.reshape(rows, columns), wanted, atol=1e-6)


def test_a_large_set_is_reduced_in_pieces():
    images = np.random.default_rng(0).integers(0, 256, (2500, 36, 36, 3), dtype=np.uint8)
    found = raw_features(images)
    np.testing.assert_allclose(found[2040:2060], raw_features(images[2040:2060]), atol=1e-6)
    exact = images.reshape(2500, 18, 2, 18, 2, 3).mean((2, 4)).reshape(2500, -1) / 255
    np.testing.assert_allclose(found, exact, atol=1e-6)
