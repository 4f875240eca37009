"""Export the encoder of a run on pictures, for other libraries, with what is needed to embed with it."""

import json
import tempfile
from pathlib import Path

from ssljax.interop import torchvision
from ssljax.run.task import Learner
from ssljax.vision.config import Preprocessing

EXPORTED = "backbone.safetensors"
WRITERS = {"torchvision": torchvision}
METADATA = "ssljax"  # the key of the facts in the file's header


def export(writer: str | None, preprocessing: Preprocessing, learner: Learner, directory: str) -> str:
    """Write the encoder to `directory/backbone.safetensors`, unless it exists.

    The file's metadata hold, as JSON under "ssljax", the fields of `preprocessing` and the arguments of the encoder's
    architecture.

    Args:
        writer: one of `WRITERS`; None: nothing is written.
        preprocessing: how pictures are prepared for the encoder.
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
            weights = learner.method.encoder(learner.params, learner.aux)
            architecture = WRITERS[writer].architecture(WRITERS[writer].to_torchvision(*weights))
            facts = {METADATA: json.dumps(preprocessing._asdict() | architecture)}
            WRITERS[writer].save_safetensors(written, *weights, facts)
            partial = epath.Path(written).copy(target.with_suffix(".partial"))
            partial.replace(target)
    return f"The encoder is {directory}/{EXPORTED}, under the names of {writer} and timm."
