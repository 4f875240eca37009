"""An epoch of MoCo's CIFAR demo with its data and its views, against lightly with two workers."""

from typing import Any

from experiments.bench import moco_step, views
from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import WORKERS, torch_loader


def sides(gpu: bool, data: str, images: int) -> list[Side]:
    """ResNet-18 with the CIFAR stem on the first `images` of the training split."""
    options = {"data": data, "images": images, "batch": 512 if gpu else 64, "gpu": gpu}
    return [Side("ssljax", ours, options), Side(f"lightly, {WORKERS} workers", peer, options)]


def load(data: str, images: int) -> Any:
    """The first pictures of a set, uint8[N, 32, 32, 3]; noise where `data` is empty."""
    import numpy as np

    if not data:
        return views.pictures(images, 32)
    from ssljax.vision.sources import open_source

    source = open_source(data, "train")
    return np.stack([source[index]["image"] for index in range(min(images, len(source)))])


def ours(data: str, images: int, batch: int, gpu: bool) -> Ready:
    """The loader, views in the step, and the loop of a run without its logs."""
    import jax

    from ssljax.data import loader
    from ssljax.train.state import init_state
    from ssljax.train.step import compile_step
    from ssljax.vision.views import cifar

    method, optimizer = moco_step.our_method(18, gpu)
    records = [{"image": picture} for picture in load(data, images)]
    steps, recipe = len(records) // batch, cifar()
    shape = {"image": jax.ShapeDtypeStruct((batch, *records[0]["image"].shape), "uint8")}
    held = [init_state(method, optimizer, recipe, shape, 0)]
    step = compile_step(method, recipe, optimizer)

    def round():
        for drawn in loader.batches(records, batch_size=batch, num_steps=steps):
            held[0], _ = step(held[0], drawn)
        jax.block_until_ready(held[0])

    return Ready(round, work=steps * batch, facts={"images": steps * batch, "data": data.rpartition("/")[2]})


def peer(data: str, images: int, batch: int, gpu: bool) -> Ready:
    """The loop of lightly: pictures of Pillow through its transforms, the same recipe without blur."""
    torch = need("torch")
    step = moco_step.torch_step(18, gpu)
    from lightly.transforms import MoCoV2Transform  # type: ignore[import-not-found]

    place = "cuda" if gpu else "cpu"
    recipe = MoCoV2Transform(input_size=32, min_scale=0.08, gaussian_blur=0.0)
    drawn = torch_loader(
        views.Transformed(list(load(data, images)), recipe),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
    )

    def round():
        for pair in drawn:
            step(*(view.to(place, memory_format=torch.channels_last) for view in pair))
        if gpu:
            torch.cuda.synchronize()

    return Ready(round, work=len(drawn) * batch)
