"""Decoding pictures, and crops on the host: transforms `(record, rng) -> record` for pictures of any size.

Randomness comes from the NumPy generator passed in, so that a record's crops depend on that generator alone.
"""

import functools
import io
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ssljax.data.records import Record, Transform
from ssljax.types import BadInputError

ATTEMPTS = 10
MOST_CHANNELS = 16
ORDINARY = 4  # longer over shorter side of pictures that are resized whole; of longer ones the centre alone
Interpolation = Literal["bilinear", "bicubic"]
REACH = {"bilinear": 1.0, "bicubic": 2.0}  # of the filters, in pixels of the smaller of the two grids


class Crop(NamedTuple):
    """A random-resized-crop.

    Attributes:
        size: side of the result in pixels.
        scale: lowest and highest share of the picture's area.
        ratio: lowest and highest width / height.
        interpolation: filter of the resizing, which is antialiased.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"


def decode(data: bytes, *, channels: int = 3, min_side: int | None = None) -> np.ndarray:
    """Pixels of a JPEG or PNG of any size and mode.

    Args:
        data: the encoded file.
        channels: 3 converts to RGB (alpha is dropped), 1 to grey.
        min_side: pixels; a JPEG whose shorter side is at least 2, 4 or 8 times this is decoded at a half, a
            quarter or an eighth of its size, which is several times faster. None decodes at full size.

    Returns:
        uint8[H, W, channels]. EXIF orientation is not applied, as in torchvision's `ImageFolder`.

    Raises:
        BadInputError: the bytes are damaged, cut short or not a picture.
    """
    from PIL import Image, UnidentifiedImageError

    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(data)) as image:
            if min_side is not None:
                image.draft(mode, (min_side, min_side))
            pixels = np.asarray(_eight_bits(image).convert(mode))
    except UnidentifiedImageError as error:
        raise BadInputError("not a picture in a format that Pillow knows") from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds of exceptions on damaged bytes
        raise BadInputError(f"a damaged picture ({error})") from error
    return pixels[..., None] if channels == 1 else pixels


def _eight_bits(image):
    """Modes that Pillow's `convert` would clip (16-bit grey) or warn about (a palette with transparency)."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def resize_center(size: int, resize: int, interpolation: Interpolation = "bilinear") -> Transform:
    """The usual evaluation crop: shorter side to `resize` (antialiased), then the central square.

    Args:
        size: side of the result in pixels, at most `resize`.
        resize: length of the shorter side before cropping, in pixels.
        interpolation: filter of the resizing.

    Returns:
        A transform that makes `record["image"]` uint8[size, size, C].

    Raises:
        BadInputError: `size` is larger than `resize`.

    Reference:
        torchvision's `Resize(resize)` and `CenterCrop(size)` (transforms/functional.py).
    """
    if not 1 <= size <= resize:
        raise BadInputError(f"size={size}: the central crop must lie within resize={resize}; lower size.")
    return functools.partial(_resize_center, size, resize, interpolation)


def _resize_center(size, resize, interpolation, record: Record, rng: np.random.Generator) -> Record:
    height, width = record["image"].shape[:2]
    shorter = min(height, width)
    new_height, new_width = (int(resize * side / shorter) for side in (height, width))
    if max(height, width) > ORDINARY * shorter:
        rows, columns = _centre(height, new_height, size), _centre(width, new_width, size)
        return record | {"image": _resized_within(record["image"], rows, columns, size, interpolation)}
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    resized = _resized(record["image"], (0, 0, width, height), (new_width, new_height), interpolation)
    return record | {"image": resized[top : top + size, left : left + size]}


def _centre(side: int, new_side: int, size: int) -> tuple[float, float]:
    """Where the central `size` of `new_side` resized pixels lie among `side` pixels."""
    start = round((new_side - size) / 2)
    return start * side / new_side, (start + size) * side / new_side


def _resized_within(image: np.ndarray, rows, columns, size: int, interpolation: Interpolation) -> np.ndarray:
    """`size` x `size` pixels of an image resized whole, from the pixels of `rows` and `columns` and those beside."""
    spans = []
    for (low, high), side in zip((rows, columns), image.shape[:2], strict=True):
        beside = REACH[interpolation] * max(1.0, (high - low) / size) + 1
        spans.append((max(0, math.floor(low - beside)), min(side, math.ceil(high + beside))))
    (top, bottom), (left, right) = spans
    box = (columns[0] - left, rows[0] - top, min(columns[1], right) - left, min(rows[1], bottom) - top)
    return _by_pillow(image[top:bottom, left:right], (size, size), interpolation, box)


def random_crops(
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    views: int = 2,
) -> Transform:
    """Random-resized-crops on the host, for sets whose pictures differ in size.

    Args:
        size: side of each crop in pixels.
        scale: lowest and highest share of the picture's area.
        ratio: lowest and highest width / height.
        views: number of crops of each picture.

    Returns:
        A transform that makes `record["image"]` uint8[views, size, size, C].

    Reference:
        torchvision's `RandomResizedCrop` (transforms/transforms.py), with bilinear, antialiased resizing.
    """
    return functools.partial(_random_crops, (Crop(size, scale, ratio),) * views)


def _random_crops(crops: Sequence[Crop], record: Record, rng: np.random.Generator) -> Record:
    return record | {"image": np.stack([_random_crop(record["image"], crop, rng) for crop in crops])}


def crops_by_size(crops: Sequence[Crop]) -> Transform:
    """Random-resized-crops of any sizes on the host.

    Args:
        crops: in the order in which their boxes are drawn.

    Returns:
        A transform that replaces `record["image"]`, uint8[H, W, C], by uint8[n, size, size, C] as `crops_SIZE` for
        the n crops of each size, in their order.

    Reference:
        torchvision's `RandomResizedCrop` (transforms/transforms.py) on Pillow's images.

    >>> record = {"image": np.zeros((30, 40, 3), np.uint8)}
    >>> record = crops_by_size((Crop(8), Crop(8), Crop(4)))(record, np.random.default_rng(0))
    >>> {name: crops.shape for name, crops in record.items()}
    {'crops_8': (2, 8, 8, 3), 'crops_4': (1, 4, 4, 3)}
    """
    return functools.partial(_crops_by_size, tuple(crops))


def _crops_by_size(crops: Sequence[Crop], record: Record, rng: np.random.Generator) -> Record:
    made = {crops_name(crop.size): [] for crop in crops}
    for crop in crops:
        made[crops_name(crop.size)].append(_random_crop(record["image"], crop, rng))
    rest = {name: value for name, value in record.items() if name != "image"}
    return {name: np.stack(found) for name, found in made.items()} | rest


def crops_name(size: int) -> str:
    """The field that holds a record's crops of `size` pixels a side."""
    return f"crops_{size}"


def _random_crop(image: np.ndarray, crop: Crop, rng: np.random.Generator) -> np.ndarray:
    box = crop_box(image.shape[0], image.shape[1], crop.scale, crop.ratio, rng)
    return _resized(image, box, (crop.size, crop.size), crop.interpolation)


def crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of one random-resized-crop, in pixels.

    The area is uniform in `scale`, the ratio log-uniform; a box that does not fit is drawn again, ten times
    at most, then the largest central box within `ratio` is taken.
    """
    for share, aspect, x, y in rng.random((ATTEMPTS, 4)):
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        wide = math.exp(math.log(ratio[0]) + aspect * math.log(ratio[1] / ratio[0]))
        w, h = round(math.sqrt(area * wide)), round(math.sqrt(area / wide))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    wide = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * wide))), min(height, max(1, round(width / wide)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _resized(
    image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int], interpolation: Interpolation
) -> np.ndarray:
    """Crop, then resize, as torchvision does: Pillow's `resize(box=...)` reads pixels outside the box."""
    left, top, right, bottom = box
    return _by_pillow(image[top:bottom, left:right], size, interpolation)


def _by_pillow(
    pixels: np.ndarray,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """All channels resized alike: RGB together, others as a grey picture each (Pillow takes four for RGBA)."""
    from PIL import Image

    method, channels = Image.Resampling[interpolation.upper()], pixels.shape[-1]
    if channels == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, method, box))
    each = (Image.fromarray(pixels[..., c]).resize(size, method, box) for c in range(channels))
    return np.stack([np.asarray(one) for one in each], -1)
