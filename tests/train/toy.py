"""A small MoCo run on made-up pictures, for the tests of the step, the loop and several processes."""

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import optim, sharding
from ssljax.methods.moco import moco
from ssljax.methods.simclr import simclr
from ssljax.models import heads, resnet
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from ssljax.vision import views

BATCH, SIDE = 16, 12


def picture_batches(steps: int):
    """Global batches {"image": uint8[B, h, w, 3]} on the host."""
    rng = np.random.default_rng(0)
    return [{"image": rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)} for _ in range(steps)]


def make(name: str):
    """`(method, views, optimizer)` of a tiny "moco" or "simclr"."""
    recipe = views.View(size=8, scale=(0.3, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, grey=0.2, blur=0.5)
    backbone = resnet.resnet((1,), stem="cifar", width=4, groups=8 if name == "moco" else 1)
    head = heads.mlp((8, 8))
    method = moco(backbone, head, queue_size=64, symmetric=True) if name == "moco" else simclr(backbone, head)
    return method, views.Views((recipe, recipe)), optim.sgd(optim.cosine(0.1, 10))


def losses(name: str, steps: int = 4) -> list[float]:
    """The losses of the first steps under the present mesh; each process hands over its share of every batch."""
    method, two_views, optimizer = make(name)
    shapes = {"image": jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, 3), jnp.uint8)}
    state = init_state(method, optimizer, two_views, shapes, seed=0)
    step = compile_step(method, two_views, optimizer)
    rows = BATCH // jax.process_count()
    mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    found = []
    for batch in picture_batches(steps):
        state, metrics = step(state, sharding.shard_batch({"image": batch["image"][mine]}))
        found.append(float(metrics["loss"]))
    return found
