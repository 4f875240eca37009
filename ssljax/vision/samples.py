"""A few pictures in random views, for figures and pages."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from ssljax import sharding
from ssljax.data.order import record_rng
from ssljax.evals import features
from ssljax.vision.sources import Source
from ssljax.vision.views import Views


def drawn(source: Source, views: Views, indices: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random views of some pictures, the same for the same seed on any number of devices.

    Args:
        source: the pictures.
        views: to draw.
        indices: n positions in `source`, of pictures of one size unless the views are cropped on the host.
        seed: of the draws.

    Returns:
        `{"image": uint8[n, h, w, C], "view_1": float[n, size, size, C] in [0, 1], ...}`; "image" is the first crop
        where crops are made on the host.
    """
    records, crops = [source[int(index)] for index in indices], views.host_crops()
    if crops is not None:
        records = [crops(record, record_rng(seed, index)) for index, record in enumerate(records)]
    names = tuple(views.batch_shapes(1)) if views.on_host else ("image",)
    count = features.round_up(len(records), sharding.data_devices())
    batch = {name: features.pad_rows(np.stack([record[name] for record in records]), count) for name in names}
    placed = {name: features.place(values, split=True) for name, values in batch.items()}
    seen, whole = _views(views, jax.random.key(seed), placed), batch[names[0]][: len(records)]
    shown = {
        name: to_pixels(seen[name][: len(records)], r.mean, r.std) for name, r in zip(views.names, views, strict=True)
    }
    return {"image": whole[:, 0] if views.on_host else whole, **shown}


@functools.partial(jax.jit, static_argnums=0)
def _views(views: Views, key, batch):
    return sharding.gather(views(key, **batch))


def to_pixels(view, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """A normalised view [..., C] as values in [0, 1]."""
    shape = (1,) * (np.ndim(view) - 1) + (len(mean),)
    return np.clip(np.asarray(view) * np.reshape(std, shape) + np.reshape(mean, shape), 0, 1)
