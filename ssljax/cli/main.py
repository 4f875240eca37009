"""The command `ssljax`: pre-train on one's own data, use the encoder of a finished run, plan a run."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from ssljax.cli import experiments as cli
from ssljax.cli import pretrain
from ssljax.cli.arguments import parse
from ssljax.cli.embed import Embed, embed
from ssljax.cli.evaluate import Evaluate, evaluate
from ssljax.cli.finetune import Finetune, Predict, finetune, predict
from ssljax.plan.command import Plan, plan
from ssljax.run import ranges
from ssljax.text import scores
from ssljax.text.export import EXPORTED, load_encoder
from ssljax.text.task import build
from ssljax.train import buckets
from ssljax.types import BadInputError
from ssljax.vision.export import EXPORTED as PICTURES
from ssljax.vision.pretrain import Config as Pretrain

DESCRIPTION = (
    "Pre-train on your own data, use the encoder of a finished run, or plan a run. The papers' recipes are run by "
    "python -m experiments.NAME, which needs a clone of the repository."
)


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
    command = parse(
        Annotated[Pretrain, name("pretrain")]
        | Annotated[Embed, name("embed")]
        | Annotated[Evaluate, name("evaluate")]
        | Annotated[Export, name("export")]
        | Annotated[Finetune, name("finetune")]
        | Annotated[Predict, name("predict")]
        | Annotated[FillMask, name("fill-mask")]
        | Annotated[Plan, name("plan")],
        arguments=given[:cut],
        prog="ssljax",
        description=DESCRIPTION,
        config=(tyro.conf.PositionalRequiredArgs,),
    )
    try:
        if isinstance(command, Plan):
            plan(command, given[cut + 1 :])
        elif isinstance(command, Pretrain):
            pretrain.main(command)
        else:
            COMMANDS[type(command)](command)
    except BadInputError as error:
        sys.exit(cli.refuse(error))


def fill(command: FillMask) -> None:
    """`ssljax fill-mask`."""
    ranges.check(command)
    params, shape, vocabulary = load_encoder(command.run)
    if "mlm" not in params:
        raise BadInputError(f"{command.run} has no head for masked words; give a pre-training run of BERT.")
    (filled,) = scores.fill(build(shape), params, vocabulary, [command.sentence], command.top)
    for number, (words, probabilities) in enumerate(filled, start=1):
        if len(filled) > 1:
            print(f"[MASK] {number}")
        for word, probability in zip(words, probabilities, strict=True):
            print(f"{100 * probability:6.2f} %  {word}")


def export(command: Export) -> None:
    """`ssljax export`."""
    from etils import epath

    buckets.check_reachable(command.run, "run")
    run, target = epath.Path(command.run), Path(command.directory)
    source = run / (EXPORTED if command.to == "huggingface" else PICTURES)
    if not source.exists():
        kind, other = ("text", "timm") if command.to == "huggingface" else ("pictures", "huggingface")
        there = (run / (PICTURES if other == "timm" else EXPORTED)).exists()
        hint = f"; use --to {other}" if there else ""
        raise BadInputError(f"{run} holds no {source.name}; --to {command.to} needs a finished run on {kind}{hint}.")
    if target.exists():
        raise BadInputError(f"{target} exists: it is not overwritten; choose another name.")
    buckets.check_writable(str(target), "directory")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if source.is_dir():
        buckets.copy_tree(source, epath.Path(partial))
    else:
        partial.mkdir(parents=True)
        source.copy(partial / source.name)
    partial.rename(target)
    print(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")


COMMANDS = {
    Embed: embed,
    Evaluate: evaluate,
    Export: export,
    FillMask: fill,
    Finetune: finetune,
    Predict: predict,
}
