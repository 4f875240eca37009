"""Export the encoder of a run on pictures, for other libraries."""

import tempfile
from pathlib import Path

from ssljax.interop import torchvision
from ssljax.run.task import Learner

EXPORTED = "backbone.safetensors"
WRITERS = {"torchvision": torchvision.save_safetensors}


def export(writer: str | None, learner: Learner, directory: str) -> str:
    """Write the encoder to `directory/backbone.safetensors`, unless it exists.

    Args:
        writer: one of `WRITERS`; None: nothing is written.
        learner: the trained model.
        directory: directory of the run.

    Returns:
        What was written, or why nothing was, in one sentence.

    Raises:
        BadInputError: the encoder is not one that `writer` can write.
    """
    from etils import epath

    if writer is None:
        return f"No encoder is exported: the recipe names no writer; its parameters are in {directory}/checkpoints."
    target = epath.Path(directory) / EXPORTED
    if not target.exists():  # else of this very run, stopped later on
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / EXPORTED
            WRITERS[writer](written, *learner.method.encoder(learner.params, learner.aux))
            partial = epath.Path(written).copy(target.with_suffix(".partial"))
            partial.replace(target)
    return f"The encoder is {directory}/{EXPORTED}, under the names of {writer} and timm."
