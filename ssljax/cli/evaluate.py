"""`ssljax evaluate`: how good an encoder of pictures is on a labelled set."""

import dataclasses

from ssljax.run import ranges
from ssljax.run.results import print_table
from ssljax.train import buckets
from ssljax.types import BadInputError
from ssljax.vision import encoder_file, evaluation, sources
from ssljax.vision.splits import open_splits


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate an encoder on labelled pictures: kNN and linear probes, beside raw pixels and the untrained encoder."""

    data: str = ""
    """Labelled pictures: folder:PATH with a folder for each class, arrays:FILE.npz, packed:DIR or tfds:NAME."""
    run: str = ""
    """Directory of a finished run on pictures, or a .safetensors file."""
    out: str = ""
    """New directory for evaluation.json and evaluation.html; empty: evaluation_DATA beside the encoder's file."""
    train_split: str = "train"
    """Split that the probes learn from."""
    test_split: str = "test"
    """Split to evaluate on; where there is none, every tenth picture of each class is held out."""
    draws: int = 5
    """Number of draws of 1, 5 and 10 labels a class."""
    seed: int = 0
    """Seed of the draws and of the untrained encoder."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read, and name them, instead of stopping."""
    data_dir: str | None = None
    """Directory of tensorflow-datasets; None: its default."""


def evaluate(command: Evaluate) -> None:
    """`ssljax evaluate`."""
    from etils import epath

    if not command.data:
        raise BadInputError("data='': give labelled pictures, such as --data folder:my_pictures.")
    ranges.check(command)
    if command.draws < 2:
        raise BadInputError(f"draws={command.draws}: give at least 2 for a standard deviation.")
    encoder = encoder_file.load_encoder(command.run)
    beside = epath.Path(encoder.name).parent / f"evaluation_{evaluation.slug(command.data)}"
    out = epath.Path(command.out).expanduser() if command.out else beside
    if out.exists():
        raise BadInputError(f"out={out} exists: it is not overwritten; give another directory.")
    buckets.check_writable(str(out), "out")
    options = {
        "skip_bad": command.skip_bad,
        "data_dir": command.data_dir,
        "channels": 1 if encoder.channels == 1 else 3,
        "min_side": encoder.preprocessing.resize,
    }
    splits = open_splits(
        lambda split: sources.open_source(command.data, split, **options), command.train_split, command.test_split
    )
    for note in (*encoder.notes, *(splits.notes if splits.labelled else ())):
        print(note)
    found = evaluation.evaluate(encoder, splits, draws=command.draws, seed=command.seed)
    print_table(found.table)
    evaluation.write(out, encoder, splits, found)
    print(f"{out}: evaluation.json, evaluation.html")
