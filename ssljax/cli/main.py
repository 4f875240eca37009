"""The command `ssljax`: use the encoder of a finished run, and plan a run."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from ssljax.cli import experiments as cli
from ssljax.evals import features
from ssljax.methods.bert import mean_of_tokens
from ssljax.plan.command import Plan, plan
from ssljax.text import scores
from ssljax.text.export import EXPORTED, load_encoder
from ssljax.text.task import build
from ssljax.text.vocabulary import encode, pack, tokenizer
from ssljax.train import buckets
from ssljax.types import BadInputError
from ssljax.vision.export import EXPORTED as PICTURES

BATCH = 32


@dataclasses.dataclass(frozen=True)
class FillMask:
    """Print the likeliest words for each [MASK] of a sentence, with their probabilities."""

    sentence: str
    """Sentence with one or more [MASK]."""
    run: str = ""
    """Directory of a finished text run, or of a model in Hugging Face's format."""
    top: int = 5
    """Number of words for each [MASK]."""


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write a vector for each line of a text file: the mean of the last layer over the line's tokens."""

    input: str
    """UTF-8 text file, one sentence per line."""
    output: str
    """New .npy file, float32 [lines, width]."""
    run: str = ""
    """Directory of a finished text run, or of a model in Hugging Face's format."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Copy a run's trained encoder into a new directory, for another library."""

    directory: str
    """New directory to copy into."""
    run: str = ""
    """Directory of a finished run."""
    to: Literal["huggingface", "timm"] = "huggingface"
    """Format: huggingface (text: config.json, vocab.txt, model.safetensors) or timm (images: backbone.safetensors)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    import tyro

    name = tyro.conf.subcommand
    given = list(sys.argv[1:] if arguments is None else arguments)
    # what follows -- are the options of the recipe that is planned
    cut = given.index("--") if given[:1] == ["plan"] and "--" in given else len(given)
    command = tyro.cli(
        Annotated[FillMask, name("fill-mask")]
        | Annotated[Embed, name("embed")]
        | Annotated[Export, name("export")]
        | Annotated[Plan, name("plan")],
        args=given[:cut],
        prog="ssljax",
        description="Use the encoder of a finished run, or plan a run.",
        config=(tyro.conf.PositionalRequiredArgs,),
    )
    try:
        if isinstance(command, Plan):
            plan(command, given[cut + 1 :])
        else:
            {FillMask: fill, Embed: embed, Export: export}[type(command)](command)
    except BadInputError as error:
        sys.exit(cli.refuse(error))


def fill(command: FillMask) -> None:
    """`ssljax fill-mask`."""
    params, shape, vocabulary = load_encoder(command.run)
    if "mlm" not in params:
        raise BadInputError(f"{command.run} has no head for masked words; give a pre-training run of BERT.")
    (filled,) = scores.fill(build(shape), params, vocabulary, [command.sentence], command.top)
    for number, (words, probabilities) in enumerate(filled, start=1):
        if len(filled) > 1:
            print(f"[MASK] {number}")
        for word, probability in zip(words, probabilities, strict=True):
            print(f"{100 * probability:6.2f} %  {word}")


def embed(command: Embed) -> None:
    """`ssljax embed`."""
    lines, output = _lines(command.input), Path(command.output)
    if output.exists():
        raise BadInputError(f"{output} exists: it is not overwritten; choose another name.")
    if output.suffix != ".npy" or not output.absolute().parent.is_dir():
        raise BadInputError(f"{output}: give a name that ends with .npy, in a folder that exists.")
    params, shape, vocabulary = load_encoder(command.run)
    vectors = sentence_vectors(build(shape), params, vocabulary, lines)
    partial = output.with_suffix(".partial.npy")
    np.save(partial, vectors)
    partial.replace(output)
    print(f"{output}: {len(vectors)} vectors of {vectors.shape[1]} numbers.")


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


def export(command: Export) -> None:
    """`ssljax export`."""
    from etils import epath

    buckets.check_reachable(command.run, "run")
    run, target = epath.Path(command.run), Path(command.directory)
    source = run / (EXPORTED if command.to == "huggingface" else PICTURES)
    if not source.exists():
        kind = "text" if command.to == "huggingface" else "pictures"
        raise BadInputError(f"{run} holds no {source.name}; --to {command.to} needs a finished run on {kind}.")
    if target.exists():
        raise BadInputError(f"{target} exists: it is not overwritten; choose another name.")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if source.is_dir():
        buckets.copy_tree(source, epath.Path(partial))
    else:
        partial.mkdir(parents=True)
        source.copy(partial / source.name)
    partial.rename(target)
    print(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")


def _lines(path: str) -> list[str]:
    try:
        found = Path(path).read_bytes().decode().splitlines()
    except OSError as error:
        raise BadInputError(f"{path} cannot be read ({error.strerror}); give a readable text file.") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    if not found:
        raise BadInputError(f"{path} has no lines; give one sentence per line.")
    return found
