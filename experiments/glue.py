"""A task of GLUE, fine-tuned several times from one pre-trained BERT.

Paper: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv 1810.04805, table 1
Figure: dev of bert-base: MNLI 84.4, QNLI 88.4, MRPC 86.7, SST-2 92.7; test of the miniatures on SST-2: tiny 83.2,
    mini 85.9, small 89.7, medium 89.6
Command: python -m experiments.glue --run runs/bert_base --task SST-2 --data glue/SST-2
Cost: not measured
Differs: all the rows of an epoch are seen, the last ones in a smaller batch; the paper takes the best of four learning
    rates on dev, for each task, and the official MRPC command 2e-5 as here. The miniatures need more: 3e-4 to 3e-5.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from ssljax import sharding
from ssljax.cli import experiments as cli
from ssljax.cli.arguments import parse
from ssljax.evals.finetune import FinetuneConfig
from ssljax.models import bert
from ssljax.run import compile_cache, ranges
from ssljax.run import ledger as rows
from ssljax.run import results as records
from ssljax.run import workdir as workdirs
from ssljax.text import export as text_export
from ssljax.text import finetuned, glue, text_tasks
from ssljax.train.hosts import joining
from ssljax.types import BadInputError


@dataclasses.dataclass(frozen=True)
class Config:
    """The numbers of the official command for MRPC."""

    workdir: str = ""
    """Directory of the results; empty: runs/glue/TASK."""
    run: str = ""
    """Directory of a finished text run, or of a model in Hugging Face's format."""
    task: str = "SST-2"
    """GLUE task: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI."""
    data: str = ""
    """Directory with train.tsv and dev.tsv, or its parent; or tfds:NAME, such as tfds:glue/sst2."""
    data_dir: str | None = None
    """Directory of tensorflow-datasets; None: its default."""
    dev: str = ""
    """Split to evaluate on; empty: dev, for MNLI both of them."""
    train_examples: int | None = None
    """Number of training examples, drawn by the seed; None: all."""
    length: int = 128
    """Maximum sequence length in tokens; longer examples are truncated."""
    epochs: int = 3
    """Number of passes over the training examples."""
    batch_size: int = 32
    """Examples per step, over all devices."""
    learning_rate: float = 2e-5
    """Base learning rate; linear warm-up, then linear decay to 0, counted from step 0."""
    warmup: float = 0.1
    """Warm-up, as a share of the steps."""
    weight_decay: float = 0.01
    """Weight decay, on all parameters except biases and LayerNorms."""
    by_length: bool = False
    """Group examples of similar length into batches: faster."""
    seeds: int = 5
    """Number of runs, one per seed."""
    seed: int = 0
    """Seed of the first run; each further run adds 1."""
    bag_of_words: bool = True
    """Also fit the bag-of-words baseline."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16."""
    devices: int | None = None
    """Number of devices to use; None: all."""
    record: bool = False
    """Append the result to experiments/results/glue.json."""


def run(config: Config) -> records.Results:
    """Fine-tune and write results.json, or print the existing ones.

    Raises:
        BadInputError: an option, the run or the data is invalid.
    """
    ranges.check(config)
    task = text_tasks.find_task(config.task)
    workdir = config.workdir or f"runs/glue/{task.name}"
    numbers = FinetuneConfig(
        config.epochs,
        config.batch_size,
        config.learning_rate,
        config.warmup,
        config.weight_decay,
        config.seeds,
        config.by_length,
    )
    if not (config.run and config.data):
        raise BadInputError(
            f"run={config.run!r}, data={config.data!r}: give --run DIRECTORY and --data DIRECTORY or --data tfds:NAME."
        )
    joining.start_hosts()
    finished = workdirs.check(workdir, config, "glue")
    if finished is not None:
        print(f"{workdir} already has these results; use another --workdir to fine-tune again.")
        records.print_table(finished)
        return finished
    train = _some(text_tasks.read_task(task, config.data, "train", config.data_dir), config)
    splits = (config.dev,) if config.dev else task.dev
    dev = [text_tasks.read_task(task, config.data, split, config.data_dir) for split in splits]
    params, shape, vocabulary = text_export.load_encoder(config.run)
    encoder = bert.bert(shape, dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32)
    options = {"length": config.length, "seed": config.seed, "bag_of_words": config.bag_of_words}
    compile_cache.keep()
    with sharding.use_mesh(sharding.make_mesh(config.devices)):
        results, found = glue.finetune_task(
            encoder, params["encoder"], vocabulary, task, train, dev, config=numbers, **options
        )
    if jax.process_index() == 0:
        workdirs.claim(workdir, config, "glue")
        finetuned.save(workdir, found["params"], shape, vocabulary, task, config.length)
        data = config.data if config.data.startswith("tfds:") else f"tsv:{config.data}"
        nameless = dataclasses.replace(config, run=Path(config.run).name, data=data, data_dir=None)
        metrics = [{"seeds": found["seeds"], "warnings": [sentence for one in found["warnings"] for sentence in one]}]
        records.write_results(workdir, nameless, "glue", results, records.environment(), metrics)
        records.print_table(results)
    return results


def _some(train: text_tasks.Examples, config: Config) -> text_tasks.Examples:
    picked = glue.drawn(len(train.first), config.train_examples, config.seed)
    second = None if train.second is None else [train.second[row] for row in picked]
    return text_tasks.Examples([train.first[row] for row in picked], second, train.labels[picked])


def main() -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    config = parse(Config, prog="python -m experiments.glue", description=rows.paragraphs(__doc__ or ""))
    try:
        run(config)
    except BadInputError as error:
        sys.exit(cli.refuse(error))


if __name__ == "__main__":
    main()
