"""A view's recipe: what is done to an image, how strongly and how often."""

from dataclasses import dataclass
from typing import get_args

from ssljax.types import BadInputError
from ssljax.vision.pictures import MOST_CHANNELS, Interpolation


@dataclass(frozen=True)
class View:
    """One view's recipe, applied in the order of its fields, except that the flip is done with the crop.

    Images have 1 to 16 channels. Hue, saturation and grey are of three, RGB, and leave others as they are.

    Attributes:
        size: pixels a side after the crop.
        scale: smallest and largest area of the crop, as a share of the image; None: images arrive cropped at `size`.
        ratio: smallest and largest width / height of the crop.
        interpolation: how the crop is resized, always antialiased; what bicubic overshoots is clipped.
        flip: probability of mirroring left and right.
        jitter: strengths (brightness, contrast, saturation, hue), see `sample_jitter`.
        jitter_prob: probability of the colour jitter.
        grey: probability of dropping the colour.
        blur: probability of the Gaussian blur.
        blur_sigma: its smallest and largest standard deviation, in pixels.
        blur_kernel: its taps, odd; None: a tenth of `size`, as SimCLR (23 at 224).
        solarize: probability of the inversion of bright values.
        solarize_threshold: the value in [0, 1] from which they count as bright.
        mean: subtracted per channel, in [0, 1]; one value, or one a channel.
        std: divided by per channel.

    Raises:
        BadInputError: a value is out of its range.
    """

    size: int = 224
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_prob: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarize: float = 0.0
    solarize_threshold: float = 0.5
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        for name in ("ratio", "jitter", "blur_sigma", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists would not hash
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(self.scale))
            _check_range("scale", self.scale, 1.0)
        if self.size < 1:
            raise BadInputError(f"size={self.size}: a view has at least one pixel a side.")
        for name in ("flip", "jitter_prob", "grey", "blur", "solarize", "solarize_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInputError(f"{name}={getattr(self, name)}: give a value in [0, 1].")
        _check_range("ratio", self.ratio)
        if self.interpolation not in get_args(Interpolation):
            raise BadInputError(
                f"interpolation={self.interpolation!r}: give one of {', '.join(get_args(Interpolation))}."
            )
        _check_range("blur_sigma", self.blur_sigma)
        if len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise BadInputError(
                f"jitter={self.jitter}: give four strengths >= 0 (brightness, contrast, saturation, hue), hue <= 0.5."
            )
        if self.taps % 2 == 0 or not 1 <= self.taps <= 2 * self.size - 1:
            raise BadInputError(
                f"blur_kernel={self.taps}: give an odd number of taps, at most {2 * self.size - 1} at size {self.size}."
            )
        if len(self.mean) != len(self.std) or not 1 <= len(self.mean) <= MOST_CHANNELS or min(self.std) <= 0:
            raise BadInputError(
                f"mean={self.mean}, std={self.std}: give one value each, or one a channel, with every std above 0."
            )

    @property
    def jitters(self) -> bool:
        """Whether the colours may change."""
        return self.jitter_prob > 0 and any(self.jitter)

    @property
    def taps(self) -> int:
        """Length of the blur's kernel, in pixels."""
        return 2 * (self.size // 20) + 1 if self.blur_kernel is None else self.blur_kernel


def _check_range(name, value, most=float("inf")):
    if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
        limit = "" if most == float("inf") else f" and at most {most:g}"
        raise BadInputError(f"{name}={value}: give (low, high) with 0 < low <= high{limit}.")
