"""SimCLR: every other picture of the global batch is a negative."""

import dataclasses

from flax import struct

from ssljax import diagnostics, sharding
from ssljax.losses import contrastive
from ssljax.methods import teacher
from ssljax.types import Encoder, Method, PyTree, chain


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
    teacher.check_temperature(temperature)
    encoder = chain(backbone=backbone, projector=projector)

    def init(key, batch):
        params, stats = encoder.init(key, batch["view_1"])
        return params, SimCLRAux(stats)

    def loss(params, aux, batch, key, step):
        del step
        views = (batch["view_1"], batch["view_2"])
        (z_1, z_2), stats = teacher.by_size(encoder, params, aux.stats, views, key)
        candidates = (sharding.gather(z_1), sharding.gather(z_2))
        value = contrastive.nt_xent(z_1, z_2, temperature=temperature, candidates=candidates)
        metrics = {
            "loss": value,
            "embedding_std": diagnostics.embedding_std(z_1),
            "alignment": diagnostics.alignment(z_1, z_2),
        }
        return value, (dataclasses.replace(aux, stats=stats), metrics)

    return Method(
        init=init,
        loss=loss,
        after_update=lambda params, aux, step: (params, aux),
        features=lambda params, aux, inputs: teacher.features(backbone, projector, params, aux.stats, inputs),
        encoder=lambda params, aux: teacher.backbone_of(params, aux.stats),
    )
