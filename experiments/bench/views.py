"""Random views alone: ssljax's on the device against lightly's transforms in two worker processes."""

from typing import Any

from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import WORKERS, torch_loader


def sides(gpu: bool) -> list[Side]:
    """MoCo v2 at 224 from 256 x 256; both views of each image."""
    options = {"images": 2048 if gpu else 64, "gpu": gpu}
    return [Side("ssljax", ours, options), Side(f"lightly, {WORKERS} workers", peer, options)]


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
