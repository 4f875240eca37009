"""SimCLR: every other picture of the global batch is a negative."""

import dataclasses

import jax.numpy as jnp
from flax import struct

from ssljax import diagnostics, sharding
from ssljax.losses import contrastive
from ssljax.types import BadInputError, Encoder, Method, PyTree, chain


@struct.dataclass
class SimCLRAux:
    """SimCLR's only state besides its parameters: the encoder's batch statistics."""

    stats: PyTree


def simclr(backbone: Encoder, projector: Encoder, *, temperature: float = 0.1) -> Method:
    """SimCLR: the two views of a picture attract, the 2B - 2 other views of the batch on all devices repel.

    Args:
        backbone: images [B, h, w, C] -> features [B, F].
        projector: features [B, F] -> embeddings [B, D].
        temperature: T > 0 of the NT-Xent logits.

    Returns:
        A `Method` on batches `{"view_1", "view_2"}` of float [B, h, w, C].

    Raises:
        BadInputError: T <= 0.

    Reference:
        arXiv 2002.05709, algorithm 1; `objective.py` and `model.py` of google-research/simclr: both views pass
        through the encoder as one batch, so BatchNorm sees 2B images.

    Differs from the paper:
        The loss is the mean over the 2B rows; the official code adds the means of the two halves, twice as much.
    """
    if temperature <= 0:
        raise BadInputError(f"temperature={temperature}: NT-Xent divides by it; give a number above 0.")
    encoder = chain(backbone=backbone, projector=projector)

    def init(key, batch):
        params, stats = encoder.init(key, batch["view_1"])
        return params, SimCLRAux(stats)

    def loss(params, aux, batch, key):
        del key
        pairs = jnp.stack([batch["view_1"], batch["view_2"]], axis=1)
        both = pairs.reshape(-1, *pairs.shape[2:])
        z, stats = encoder.apply(params, aux.stats, both, train=True)
        z = z.reshape(-1, 2, z.shape[-1])
        z_1, z_2 = z[:, 0], z[:, 1]
        candidates = (sharding.gather(z_1), sharding.gather(z_2))
        value = contrastive.nt_xent(z_1, z_2, temperature=temperature, candidates=candidates)
        metrics = {
            "loss": value,
            "embedding_std": diagnostics.embedding_std(z_1),
            "alignment": diagnostics.alignment(z_1, z_2),
        }
        return value, (dataclasses.replace(aux, stats=stats), metrics)

    def after_update(params, aux, step):
        del params, step
        return aux

    def features(params, aux, inputs):
        outputs, _ = backbone.apply(params["backbone"], aux.stats["backbone"], inputs, train=False)
        embedding, _ = projector.apply(params["projector"], aux.stats["projector"], outputs, train=False)
        return {"backbone": outputs, "embedding": embedding}

    return Method(init, loss, after_update, features)
