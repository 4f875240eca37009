"""Large sets on the host: packed pictures against the JPEGs that they were made from, up to batches on the device."""

import tempfile
from pathlib import Path
from typing import Any

from experiments.bench.harness import Ready, Side, need

SIZE, CROP, BATCH = 256, 224, 32
HEIGHT, WIDTH = 375, 500  # ImageNet's usual picture


def sides(gpu: bool) -> list[Side]:
    """Both random crops of 224 of each picture, by the loader's threads."""
    options = {"images": 2048 if gpu else 256}
    return [Side("packed at 256", packed, options), Side("JPEGs", jpegs, options)]


def packed(images: int) -> Ready:
    """From a file of pixels, mapped into memory."""
    from ssljax.vision.packed import pack
    from ssljax.vision.pictures import resize_center
    from ssljax.vision.sources import open_source

    folder = _folder(images)
    out = tempfile.mkdtemp(prefix="bench-packed-")
    pack(open_source(f"folder:{folder}", "train"), resize_center(SIZE, SIZE), out, "train")
    return _epoch(f"packed:{out}")


def jpegs(images: int) -> Ready:
    """Each decoded when its turn comes."""
    return _epoch(f"folder:{_folder(images)}")


def _folder(images: int) -> str:
    import numpy as np

    picture = need("PIL.Image")
    folder = Path(tempfile.mkdtemp(prefix="bench-jpegs-"))
    (folder / "train" / "class").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        coarse = picture.fromarray(rng.integers(0, 256, (HEIGHT // 12, WIDTH // 12, 3), np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), picture.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        picture.fromarray(noisy).save(folder / "train" / "class" / f"{number}.jpg", quality=90)
    return str(folder)


def _epoch(data: str) -> Ready:
    import jax

    from ssljax.data import loader
    from ssljax.vision.pictures import random_crops
    from ssljax.vision.sources import open_source

    source: Any = open_source(data, "train")
    steps = len(source) // BATCH

    def round():
        for batch in loader.batches(source, batch_size=BATCH, num_steps=steps, transform=random_crops(CROP)):
            jax.block_until_ready(batch)

    return Ready(round, work=steps * BATCH)
