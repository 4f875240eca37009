"""`ssljax embed`: a vector for each line of a text, or for each picture of a set."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssljax.evals import features
from ssljax.methods.bert import mean_of_tokens
from ssljax.text.export import load_encoder
from ssljax.text.task import build
from ssljax.text.vocabulary import encode, pack, tokenizer
from ssljax.types import BadInputError
from ssljax.vision import embedding, encoder_file, sources

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write a vector for each picture of a set, or for each line of a text file.

    Pictures give the features of the backbone; lines the mean of the last layer over their tokens.
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


def embed(command: Embed) -> None:
    """`ssljax embed`."""
    output = Path(command.output).expanduser()
    if command.input.partition(":")[0] in sources.OPENERS and not Path(command.input).exists():
        _pictures(command, output)
    else:
        _text(command, output)


def _pictures(command: Embed, output: Path) -> None:
    _check_output(output, ".npz", ".npy")
    encoder = encoder_file.load_encoder(command.run)
    for note in encoder.notes:
        print(note)
    options = {"skip_bad": command.skip_bad, "data_dir": command.data_dir}
    opened = embedding.open_all(command.input, command.split, encoder, **options)
    found = embedding.embed(encoder, opened, command.input)
    embedding.write(output, found)
    print(f"{output}: {len(found.vectors)} vectors of {found.vectors.shape[1]} numbers.")


def _text(command: Embed, output: Path) -> None:
    lines = _lines(Path(command.input).expanduser())
    _check_output(output, ".npy")
    params, shape, vocabulary = load_encoder(command.run)
    vectors = sentence_vectors(build(shape), params, vocabulary, lines)
    partial = output.with_suffix(".partial.npy")
    np.save(partial, vectors)
    partial.replace(output)
    print(f"{output}: {len(vectors)} vectors of {vectors.shape[1]} numbers.")


def _check_output(path: Path, *endings: str) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    if path.exists():
        raise BadInputError(f"{path} exists: it is not overwritten; choose another name.")
    if path.suffix not in endings or not path.absolute().parent.is_dir():
        raise BadInputError(f"{path}: give a name that ends with {' or '.join(endings)}, in a folder that exists.")


def sentence_vectors(parts, params, vocabulary, lines: Sequence[str]) -> np.ndarray:
    """Mean of the last layer over each line's tokens: float32 [lines, H]; lines too long for the model are cut."""
    import jax

    @jax.jit
    def vectors(encoder, tokens, segments, lengths):
        outputs, _ = parts.encoder.apply(encoder, {}, tokens, segments, lengths, train=False)
        return mean_of_tokens(outputs["tokens"], lengths)

    ids = encode(tokenizer(vocabulary), lines)
    found = np.zeros((len(ids), parts.shape.hidden), np.float32)
    order = np.argsort([len(line) for line in ids], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = min(features.round_up(max(len(ids[i]) for i in rows) + 2, 32), parts.shape.positions)
        batch = pack(vocabulary, [ids[i] for i in rows] + [[]] * (BATCH - len(rows)), None, longest)
        found[rows] = np.asarray(vectors(params["encoder"], **batch))[: len(rows)]
    return found


def _lines(path: Path) -> list[str]:
    try:
        found = path.read_bytes().decode().splitlines()
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be read ({error.strerror}); give a readable text file, or pictures such as folder:PATH."
        ) from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    if not found:
        raise BadInputError(f"{path} has no lines; give one sentence per line.")
    return found
