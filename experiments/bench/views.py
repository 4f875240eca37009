"""Random views alone: ssljax's on the device against lightly's in two worker processes and torchvision's on a GPU."""

from typing import Any

from experiments.bench import moco_step
from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import WORKERS, torch_loader


def sides(gpu: bool) -> list[Side]:
    """MoCo v2 at 224 from 256 x 256; both views of each image."""
    options = {"images": 2048 if gpu else 64, "gpu": gpu}
    return [Side("ssljax", ours, options), Side(f"lightly, {WORKERS} workers", peer, options)]


def on_gpu(gpu: bool) -> list[Side]:
    """MoCo v2's views of 256 pictures at 224, beside torchvision's on the same device, and beside the step itself."""
    options = {"images": 256, "gpu": gpu}
    step = {"depth": 50, "size": 224, "batch": 256, "steps": 5, "gpu": gpu}
    return [
        Side("ssljax", ours, options),
        Side("torchvision v2, on the device", torchvision_v2, options),
        Side("ResNet-50 step of MoCo v2", moco_step.ours, step),
    ]


def torchvision_v2(images: int, gpu: bool) -> Ready:
    """Both views, picture by picture as each has draws of its own, on pictures that are already on the device."""
    torch = need("torch")
    need("torchvision")
    from torchvision.transforms import v2  # type: ignore[import-not-found]

    recipe = v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    batch = torch.from_numpy(pictures(images)).permute(0, 3, 1, 2).to("cuda" if gpu else "cpu")

    def round():
        for _ in range(2):
            torch.stack([recipe(picture) for picture in batch])
        if gpu:
            torch.cuda.synchronize()

    return Ready(round, work=images)


def pictures(images: int, size: int = 256) -> Any:
    """Smooth pictures uint8[N, size, size, 3], all different."""
    import numpy as np

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (images, size // 8, size // 8, 3), np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def ours(images: int, gpu: bool) -> Ready:
    """Both views of a batch in one call."""
    import jax

    from ssljax.vision import views

    both = jax.jit(lambda key, image: views.moco_v2()(key, image=image))
    batch = jax.numpy.asarray(pictures(images))
    key = jax.random.key(0)

    def round():
        jax.block_until_ready(both(key, batch))

    return Ready(round, work=images)


def peer(images: int, gpu: bool) -> Ready:
    """MoCoV2Transform on pictures that are already decoded, collated into batches of 16."""
    need("lightly")
    from lightly.transforms import MoCoV2Transform  # type: ignore[import-not-found]

    data = Transformed(list(pictures(images)), MoCoV2Transform(input_size=224))
    loader = torch_loader(data, batch_size=16)

    def round():
        for _ in loader:
            pass

    return Ready(round, work=images)


class Transformed:
    """A torch data set of arrays as pictures of Pillow, transformed."""

    def __init__(self, arrays: list[Any], transform: Any):
        self.arrays, self.transform = arrays, transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[index]))
