"""SQuAD 1.1: finding the answer in a paragraph, fine-tuned several times from one pre-trained BERT.

Paper: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv 1810.04805, table 2
Figure: dev, by the official code: bert-base F1 88.4, exact match 81.3; bert-large 91.0, 84.3
Command: python -m experiments.squad --run runs/bert_base --train train-v1.1.json --dev dev-v1.1.json
Cost: not measured
Differs: the learning rate, epochs and batch size are those of the official command, the paper has 5e-5, 3 and 32. An
    answer's tokens are those that cover its characters, and its text is what they cover.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from etils import epath

from ssljax import sharding
from ssljax.cli import experiments as cli
from ssljax.cli.arguments import parse
from ssljax.evals.finetune import FinetuneConfig, finetune_seeds
from ssljax.models import bert
from ssljax.run import compile_cache, ranges
from ssljax.run import ledger as rows
from ssljax.run import results as records
from ssljax.run import workdir as workdirs
from ssljax.text import export as text_export
from ssljax.text import glue, squad, squad_answers
from ssljax.train.hosts import joining
from ssljax.types import BadInputError


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of the official command."""

    workdir: str = ""
    """Directory of the results and the first seed's predictions.json; empty: runs/squad."""
    run: str = ""
    """Directory of a finished text run, or of a model in Hugging Face's format."""
    train: str = ""
    """SQuAD 1.1 training file, .json or .json.gz; empty: the articles of dev that are not held out."""
    dev: str = ""
    """SQuAD 1.1 file to evaluate on."""
    held_out: int = 10
    """Number of articles at the end of dev to evaluate on, if there is no training file."""
    train_examples: int | None = None
    """Number of training questions, drawn by the seed; None: all."""
    length: int = 384
    """Length of a window in tokens, question included."""
    stride: int = 128
    """Tokens between the starts of successive windows."""
    max_query: int = 64
    """Maximum number of tokens of a question; longer ones are truncated."""
    n_best: int = 20
    """Number of start and of end candidates per window."""
    max_answer: int = 30
    """Maximum number of tokens of an answer."""
    epochs: int = 2
    """Number of passes over the training windows."""
    batch_size: int = 12
    """Windows per step, over all devices."""
    learning_rate: float = 3e-5
    """Base learning rate; linear warm-up, then linear decay to 0, counted from step 0."""
    warmup: float = 0.1
    """Warm-up, as a share of the steps."""
    weight_decay: float = 0.01
    """Weight decay, on all parameters except biases and LayerNorms."""
    by_length: bool = False
    """Group windows of similar length into batches: faster."""
    seeds: int = 5
    """Number of runs, one per seed."""
    seed: int = 0
    """Seed of the first run; each further run adds 1."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16."""
    devices: int | None = None
    """Number of devices to use; None: all."""
    record: bool = False
    """Append the result to experiments/results/squad.json."""


def run(config: Config) -> records.Results:
    """Fine-tune and write results.json and predictions.json, or print the existing ones.

    Raises:
        BadInputError: an option, the run or the data is invalid.
    """
    ranges.check(config)
    workdir = config.workdir or "runs/squad"
    numbers = FinetuneConfig(
        config.epochs,
        config.batch_size,
        config.learning_rate,
        config.warmup,
        config.weight_decay,
        config.seeds,
        config.by_length,
    )
    if not (config.run and config.dev):
        raise BadInputError(
            f"run={config.run!r}, dev={config.dev!r}: give --run DIRECTORY and --dev FILE, a SQuAD 1.1 file."
        )
    joining.start_hosts()
    finished = workdirs.check(workdir, config, "squad")
    if finished is not None:
        print(f"{workdir} already has these results; use another --workdir to fine-tune again.")
        records.print_table(finished)
        return finished
    train, dev = _questions(config)
    train = [train[row] for row in glue.drawn(len(train), config.train_examples, config.seed)]
    params, shape, vocabulary = text_export.load_encoder(config.run)
    sizes = {"length": config.length, "stride": config.stride, "max_query": config.max_query}
    seen, unseen = squad.windows(train, vocabulary, **sizes), squad.windows(dev, vocabulary, **sizes)
    answered = seen.placed[seen.question]
    inputs = {name: rows[answered] for name, rows in seen.inputs.items()}
    spans = {"n": config.n_best, "max_tokens": config.max_answer}
    encoder = bert.bert(shape, dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32)
    options = {"config": numbers, "score": squad.scorer(unseen, dev, **spans), "seed": config.seed}
    compile_cache.keep()
    with sharding.use_mesh(sharding.make_mesh(config.devices)):
        found = finetune_seeds(
            encoder, bert.span_head(), params["encoder"], inputs, unseen.inputs, kind="span", **options
        )
    results = {"fine-tuned": glue.summary(found)}
    if jax.process_index() == 0:
        workdirs.claim(workdir, config, "squad")
        trained = {"encoder": found["params"]["encoder"], "span": found["params"]["head"]}
        text_export.export(trained, shape, vocabulary, workdir)
        answers = squad_answers.n_best(unseen, dev, found["outputs"], **spans)
        predictions = {name: best[0].text for name, best in answers.items()}
        (epath.Path(workdir) / "predictions.json").write_text(json.dumps(predictions, indent=1))
        names = {name: Path(getattr(config, name)).name for name in ("run", "train", "dev")}
        metrics = [{"seeds": found["seeds"], "warnings": [sentence for one in found["warnings"] for sentence in one]}]
        nameless = dataclasses.replace(config, **names)
        records.write_results(workdir, nameless, "squad", results, records.environment(), metrics)
        records.print_table(results)
    return results


def _questions(config: Config) -> tuple[list[squad.Question], list[squad.Question]]:
    dev = squad.read_squad(config.dev)
    if config.train:
        return squad.read_squad(config.train), dev
    return squad.split_articles(dev, config.held_out)


def main() -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    config = parse(Config, prog="python -m experiments.squad", description=rows.paragraphs(__doc__ or ""))
    try:
        run(config)
    except BadInputError as error:
        sys.exit(cli.refuse(error))


if __name__ == "__main__":
    main()
