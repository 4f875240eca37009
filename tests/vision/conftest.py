"""A folder of pictures in classes."""

import pytest

from tests.vision.picture_files import colours, encoded


@pytest.fixture
def classes(tmp_path):
    """Two classes of three PNGs, of different sizes."""
    pixels = {}
    for label, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels[f"{name}/{i}.png"] = colours(6 + i, 9 + label)
            (tmp_path / name / f"{i}.png").write_bytes(encoded(pixels[f"{name}/{i}.png"]))
    return tmp_path, list(pixels.values())
