"""torchvision's tensor transforms on the images that tests/vision/test_views_color.py makes from the same seed."""

import numpy as np

from tests.oracles import oracle
from tests.oracles.torchvision_import import load_torchvision

FACTORS = (0.0, 0.3, 1.0, 1.7)
SHIFTS = (-0.5, -0.2, 0.0, 0.07, 0.5)
BLURS = ((3, 0.1), (5, 0.8), (7, 2.0), (13, 3.0))
BOXES = ((32, 32, (0.08, 1.0)), (40, 90, (0.2, 1.0)), (120, 30, (0.5, 1.0)), (20, 100, (0.9, 1.0)))

# (height, width) of the image, box (top, left, height, width), size after: down, up, both at once, odd, all, one pixel
CROPS = (
    ((40, 48), (3, 5, 30, 20), 13),
    ((40, 48), (10, 7, 9, 11), 21),
    ((40, 48), (2, 0, 37, 6), 16),
    ((97, 61), (20, 1, 77, 59), 12),
    ((33, 35), (0, 0, 33, 35), 11),
    ((19, 19), (0, 0, 19, 19), 19),
    ((40, 48), (39, 47, 1, 1), 8),
)


def crop_image(height, width):
    """float32[H, W, 1], nothing but black and white, where a bicubic overshoots most."""
    return np.random.default_rng(height).integers(0, 2, (height, width, 1)).astype(np.float32)


def images():
    """{name: float32[H, W, 3]}: noise; few colours, so that channels tie; no red, where all greys agree."""
    rng = np.random.default_rng(0)
    few = rng.integers(0, 3, (11, 14, 3)) / 2
    no_red = rng.random((9, 12, 3)) * [0, 1, 1]
    return {k: v.astype(np.float32) for k, v in (("noise", rng.random((13, 10, 3))), ("few", few), ("no_red", no_red))}


def _each(function):
    """`function` takes and returns a torch image [3, H, W]; the arrays are [H, W, 3]."""
    import torch

    results = {}
    for name, image in images().items():
        for label, tensor in function(torch.from_numpy(image).permute(2, 0, 1)).items():
            results[f"{name}_{label}"] = tensor.permute(1, 2, 0).numpy()
    return results


@oracle("torch", "torchvision")
def views_color_torchvision():
    functional = load_torchvision().transforms.functional

    def operations(image):
        results = {"grey": functional.rgb_to_grayscale(image, 3), "solarize": functional.solarize(image, 0.5)}
        for operation in ("brightness", "contrast", "saturation"):
            for factor in FACTORS:
                results[f"{operation}_{factor}"] = getattr(functional, f"adjust_{operation}")(image, factor)
        return results | {f"hue_{shift}": functional.adjust_hue(image, shift) for shift in SHIFTS}

    return _each(operations)


@oracle("torch", "torchvision")
def views_blur_torchvision():
    functional = load_torchvision().transforms.functional
    return _each(lambda image: {f"{k}_{s}": functional.gaussian_blur(image, [k, k], [s, s]) for k, s in BLURS})


@oracle("torch", "torchvision")
def views_crops_torchvision():
    """`resized_crop` of floats, antialiased."""
    import torch

    functional = load_torchvision().transforms.functional
    results = {}
    for number, (shape, box, size) in enumerate(CROPS):
        image = torch.from_numpy(crop_image(*shape)).permute(2, 0, 1)
        for mode in ("bilinear", "bicubic"):
            method = functional.InterpolationMode(mode)
            crop = functional.resized_crop(image, *box, [size, size], method, antialias=True)
            results[f"{mode}_{number}"] = crop.permute(1, 2, 0).numpy()
    return results


@oracle("torch", "torchvision")
def views_boxes_torchvision():
    """Boxes drawn by torchvision, sorted per column, which is all that a two-sample test needs."""
    import torch

    crop = load_torchvision().transforms.RandomResizedCrop
    torch.manual_seed(0)
    results = {}
    for height, width, scale in BOXES:
        image = torch.empty(3, height, width)
        boxes = [crop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(4000)]
        results[f"{height}x{width}"] = np.sort(np.array(boxes, np.int16), axis=0)
    return results
