"""`ssljax embed`: a vector for each line of a text, or for each picture of a set."""

import dataclasses
from pathlib import Path

import numpy as np

from ssljax.cli.arguments import check_output
from ssljax.run import ranges
from ssljax.text.embedding import Pooling, embed_lines, lines_of
from ssljax.text.export import load_encoder
from ssljax.types import BadInputError
from ssljax.vision import embedding, encoder_file, sources

UNKNOWN = 0.02  # share of the tokens from which it is said that they are unknown


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write a vector for each picture of a set, or for each line of a text file.

    Pictures give the features of the backbone, lines those of the last layer.
    """

    input: str
    """Pictures, such as folder:PATH or arrays:FILE.npz; or a UTF-8 text file, one sentence per line."""
    output: str
    """New file: .npy, float32 [N, D], or for pictures .npz with names, vectors and, where there are any, labels."""
    run: str = ""
    """Directory of a finished run; for pictures also a .safetensors file, for text a model in Hugging Face's format."""
    split: str = ""
    """Split of the pictures; empty: all."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read, and name them, instead of stopping."""
    data_dir: str | None = None
    """Directory of tensorflow-datasets; None: its default."""
    pooling: Pooling = "mean"
    """Vector of a line: mean over its tokens, or the vector of [CLS]."""
    normalise: bool = False
    """Scale each vector of a line to length 1."""
    max_length: int | None = None
    """Tokens of a line, with [CLS] and [SEP]; None: as many as the model takes."""


def embed(command: Embed) -> None:
    """`ssljax embed`."""
    ranges.check(command)
    output = Path(command.output).expanduser()
    if command.input.partition(":")[0] in sources.OPENERS and not Path(command.input).exists():
        _pictures(command, output)
    else:
        _text(command, output)


def _pictures(command: Embed, output: Path) -> None:
    check_output(output, ".npz", ".npy")
    encoder = encoder_file.load_encoder(command.run)
    for note in encoder.notes:
        print(note)
    options = {"skip_bad": command.skip_bad, "data_dir": command.data_dir}
    opened = embedding.open_all(command.input, command.split, encoder, **options)
    found = embedding.embed(encoder, opened, command.input)
    embedding.write(output, found)
    print(f"{output}: {len(found.vectors)} vectors of {found.vectors.shape[1]} numbers.")


def _text(command: Embed, output: Path) -> None:
    check_output(output, ".npy")
    path = Path(command.input).expanduser()
    if not path.is_file():
        raise BadInputError(f"input={path} is not a file; give a text file, or pictures such as folder:PATH.")
    lines = lines_of(str(path))
    params, shape, vocabulary = load_encoder(command.run)
    options = {"pooling": command.pooling, "normalise": command.normalise, "max_length": command.max_length}
    found = embed_lines(params, shape, vocabulary, lines, **options)
    partial = output.with_suffix(".partial.npy")
    np.save(partial, found.vectors)
    partial.replace(output)
    print(f"{output}: {len(lines)} vectors of {found.vectors.shape[1]} numbers.")
    if found.cut:
        most = command.max_length or shape.positions
        print(f"{found.cut} of {len(lines)} lines are longer than {most} tokens and were cut.")
    if found.unknown > UNKNOWN:
        print(f"{100 * found.unknown:.1f} % of the tokens are not in the vocabulary of {command.run}: [UNK].")
