"""`ssljax finetune` and `ssljax predict`: a classifier of one's own texts, and its answers for new ones."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from ssljax import sharding
from ssljax.cli.arguments import check_output
from ssljax.evals.finetune import FinetuneConfig
from ssljax.models import bert
from ssljax.run import compile_cache, ranges, results
from ssljax.run import workdir as workdirs
from ssljax.text import export, finetuned, glue, own_task
from ssljax.text.tables import FORMATS, read_table, write_table
from ssljax.text.text_tasks import Examples
from ssljax.text.vocabulary import Vocabulary, encode, tokenizer
from ssljax.types import BadInputError

BAG_OF_WORDS = 50_000  # training rows that the baseline learns from at most


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Fine-tune a text encoder on a table of labelled texts, and keep the classifier."""

    train: str = ""
    """Table to learn from: .csv, .tsv or .jsonl, plain or compressed."""
    run: str = ""
    """Directory of a finished text run, or of a model in Hugging Face's format."""
    out: str = ""
    """New directory for results.json and the classifier in Hugging Face's format."""
    text: tuple[str, ...] = ("text",)
    """Column of text; two columns for pairs."""
    label: str = "label"
    """Column of labels; the classes are those that occur."""
    regression: bool = False
    """Predict numbers instead of classes."""
    test: str = ""
    """Table to evaluate on; empty: every tenth row of each class of --train is held out."""
    length: int | None = None
    """Tokens of an example, longer ones are cut; None: those of the longest one, as far as the model takes them."""
    epochs: int = 3
    """Number of passes over the training rows."""
    batch_size: int = 32
    """Rows per step, over all devices."""
    learning_rate: float | None = None
    """Peak learning rate; None: 2e-5 for a width of 768, more for narrower models."""
    seeds: int = 3
    """Number of runs; the classifier of the first is kept."""
    seed: int = 0
    """Seed of the first run and of the rows held out."""
    bag_of_words: bool = True
    """Also fit a linear classifier on the words, to compare with."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16."""
    devices: int | None = None
    """Number of devices to use; None: all."""
    record: ClassVar[bool] = False
    allow: ClassVar[tuple[str, ...]] = ()


@dataclasses.dataclass(frozen=True)
class Predict:
    """Write a fine-tuned classifier's answer for each row of a table, with the probability of each class."""

    input: str
    """Table: .csv, .tsv or .jsonl, plain or compressed."""
    output: str
    """New table: the input's columns, the answer and the probabilities."""
    run: str = ""
    """Directory that `ssljax finetune` wrote, or of a BertForSequenceClassification."""
    text: tuple[str, ...] = ()
    """Column of text, two for pairs; empty: those of the training."""
    batch_size: int = 64
    """Rows at a time."""


def finetune(command: Finetune) -> None:
    """`ssljax finetune`."""
    for name in ("train", "run", "out"):
        if not getattr(command, name):
            raise BadInputError(f"{name}='': give --train TABLE, --run DIRECTORY and --out DIRECTORY.")
    ranges.check(command)
    finished = workdirs.check(command.out, command, "finetune")
    if finished is not None:
        print(f"{command.out} already has these results; use another --out to fine-tune again.")
        results.print_table(finished)
        return
    task, train, test = _rows(command)
    params, shape, vocabulary = export.load_encoder(command.run)
    rate = command.learning_rate
    if rate is None:
        rate = float(f"{2e-5 * (768 / shape.hidden) ** 1.5:.1g}")
    numbers = FinetuneConfig(command.epochs, command.batch_size, rate, seeds=command.seeds, by_length=True)
    length = _length(command.length, shape.positions, vocabulary, (train, test))
    kind = f"{len(task.labels)} classes" if task.labels else "numbers"
    print(f"{len(train.first)} rows to learn from, {len(test.first)} to evaluate on, {kind}; --learning-rate {rate:g}.")
    scale = own_task.UNSCALED if task.labels else own_task.scale_of(train.labels)
    learned = train if task.labels else train._replace(labels=(train.labels - scale.mean) / scale.deviation)
    encoder = bert.bert(shape, dtype=jnp.bfloat16 if command.bfloat16 else jnp.float32)
    bag_of_words = command.bag_of_words and _countable(train)
    options = {"length": length, "seed": command.seed, "bag_of_words": bag_of_words}
    workdirs.claim(command.out, command, "finetune")
    compile_cache.keep()
    with sharding.use_mesh(sharding.make_mesh(command.devices)):
        table, found = glue.finetune_task(
            encoder, params["encoder"], vocabulary, task, learned, [test], config=numbers, **options
        )
    results.print_table(table)
    said = finetuned.save(command.out, found["params"], shape, vocabulary, task, length, scale)
    metrics = [{"seeds": found["seeds"], "warnings": [sentence for one in found["warnings"] for sentence in one]}]
    results.write_results(command.out, command, "finetune", table, results.environment(), metrics)
    print(said.replace("encoder and its heads are", "classifier is"))


def _rows(command: Finetune):
    """The task, the rows to learn from and those to evaluate on."""
    table = read_table(command.train)
    task = own_task.own_task(table, command.text, command.label, command.regression)
    whole = own_task.examples(table, task)
    if command.test:
        return task, whole, own_task.examples(read_table(command.test), task)
    print("No --test: every tenth row of each class is held out to evaluate on.")
    return task, *own_task.hold_out(whole, task, command.seed)


def _length(given: int | None, positions: int, vocabulary: Vocabulary, parts: tuple[Examples, ...]) -> int:
    """Tokens of an example; prints how many are longer."""
    words = tokenizer(vocabulary, specials=False)
    counts = []
    for part in parts:
        pairs = (part.first,) if part.second is None else (part.first, part.second)
        tokens = [[len(ids) for ids in encode(words, texts)] for texts in pairs]
        counts += (np.sum(tokens, axis=0) + 1 + len(pairs)).tolist()
    least = 4 if parts[0].second is None else 5
    if given is not None and not least <= given <= positions:
        raise BadInputError(f"length={given}: give {least} to {positions} tokens, the positions that the model has.")
    length = given or max(least, min(max(counts), positions))
    longer = sum(count > length for count in counts)
    if longer:
        print(f"{longer} of {len(counts)} examples are longer than {length} tokens and are cut.")
    return length


def _countable(train: Examples) -> bool:
    if len(train.first) > BAG_OF_WORDS:
        print(f"The bag of words is left out: it would take long with more than {BAG_OF_WORDS} rows.")
    return 10 <= len(train.first) <= BAG_OF_WORDS


def predict(command: Predict) -> None:
    """`ssljax predict`."""
    output = Path(command.output).expanduser()
    check_output(output, *FORMATS)
    ranges.check(command)
    table = read_table(command.input)
    model = finetuned.load(command.run)
    names = command.text or model.text or ("text",)
    if len(names) not in (1, 2):
        raise BadInputError(f"text={' '.join(names)}: give one column of text, or two for pairs.")
    texts = [table.column(name, "text") for name in names]
    probabilities = [] if model.regression else [f"probability {label}" for label in model.labels]
    taken = next((name for name in ("prediction", *probabilities) if name in table.columns), None)
    if taken is not None:
        raise BadInputError(f"{command.input} has the column {taken!r}, which the answers need; rename it.")
    answers = finetuned.predict(model, texts[0], texts[1] if texts[1:] else None, batch_size=command.batch_size)
    columns: dict[str, list] = dict(table.columns)
    if model.regression:
        columns["prediction"] = answers[:, 0].tolist()
    else:
        columns["prediction"] = [model.labels[place] for place in answers.argmax(1)]
        columns |= dict(zip(probabilities, np.round(answers.T.astype(float), 6).tolist(), strict=True))
    write_table(output, columns)
    print(f"{output}: {len(answers)} rows.")
