"""Continued pre-training: an encoder that starts from given weights, as far as they fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.interop import torchvision
from ssljax.types import BadInputError, Encoder
from ssljax.vision.encoder_file import read_file

SHOWN = 5  # names in a sentence


def started_from(init: str, encoder: Encoder, channels: int) -> Encoder:
    """`encoder` that starts from the weights of the file `init` where name and shape fit; prints the others' names.

    Args:
        init: a .safetensors file or the directory of a run.
        encoder: a ResNet of `models.resnet`.
        channels: those of its pictures.

    Raises:
        BadInputError: the file cannot be used, or none of its weights fits.
    """
    _, state, _ = read_file(init, "init")
    inputs = jax.ShapeDtypeStruct((1, 64, 64, channels), np.float32)
    like = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
    found, missing, unused = torchvision.matching(state, like=like)
    if not found:
        raise BadInputError(
            f"init={init} has no weights that fit the encoder; choose its --backbone, --width and --stem."
        )
    print(f"{len(found)} of {len(found) + len(missing)} arrays of the encoder start from {init}.")
    for names, what in ((missing, "start at random"), (unused, "of the file are not used")):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            print(f"{', '.join(names[:SHOWN])}{more} {what}.")

    def init_fn(key: Any, *inputs: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(encoder.init(key, *inputs))
        filled = [jnp.asarray(found[i], leaf.dtype) if i in found else leaf for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, filled)

    return Encoder(init_fn, encoder.apply)
