"""Text as a task: how an experiment reads a prepared corpus, watches held-out words, judges and exports a BERT."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssljax import sharding
from ssljax.methods import bert as method
from ssljax.models import bert as models
from ssljax.run.experiment import Experiment, RunConfig, Task
from ssljax.text import batches, corpus, prepare, python_topics
from ssljax.text import export as text_export
from ssljax.text import finetuning as text_finetune
from ssljax.text import page as text_page
from ssljax.text import scores as text_scores
from ssljax.text.masking import Masking
from ssljax.text.scores import Bert
from ssljax.text.vocabulary import SPECIALS, Vocabulary, train_vocabulary
from ssljax.text.wordpiece import BERT_RESERVED
from ssljax.types import BadInputError

PYTHON_TOPICS = "python-topics"
SENTENCES = (
    "Paris is the [MASK] of France.",
    "He was born in [MASK].",
    "The [MASK] flows into the sea.",
    "She won the gold [MASK] at the Olympic Games.",
    "The book was [MASK] in 1950.",
)


@dataclasses.dataclass(frozen=True)
class TextConfig(RunConfig):
    """The options of every experiment with text."""

    data: str = ""
    """Directory made by experiments.bert_prepare; or python-topics, the language reference of this Python."""
    steps: tuple[int, ...] = (900_000, 100_000)
    """Updates of each phase."""
    lengths: tuple[int, ...] = (128, 512)
    """Tokens of its sequences."""
    batch_sizes: tuple[int, ...] = (256, 256)
    """Its sequences in a batch, over all devices."""
    max_predictions: tuple[int, ...] = (20, 76)
    """At most so many masked words in one of its sequences."""
    masked: float = 0.15
    """Share of the tokens to predict."""
    whole_word: bool = False
    """Mask all pieces of a word or none."""
    dupe_factor: int = 0
    """So many fixed maskings and pairings of the corpus, repeated; 0: new ones in every epoch."""
    held_out: int = 100
    """One document in so many is kept for evaluation."""
    dropout: float = 0.1
    """On embeddings, on the output of each block and on attention's probabilities."""
    bfloat16: bool = False
    """Compute in bfloat16; parameters, norms' statistics, softmax and loss stay float32."""
    remat: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    scan: bool = False
    """Compile one layer and loop over it."""
    finetune: tuple[str, ...] = ()
    """GLUE tasks to fine-tune on at the end, as TASK:DIRECTORY, such as SST-2:glue/SST-2, or TASK:tfds:NAME."""
    finetune_seeds: int = 5
    """Runs of each."""
    finetune_epochs: int = 3
    finetune_learning_rate: float = 1e-4
    """At the end of its warm-up."""
    eval_every: int = 10_000
    save_every: int = 10_000


def build(shape: models.BertShape, dtype: Any = jnp.float32, **options: Any) -> Bert:
    """The parts of `shape`; `options` are `remat` and `scan` of the encoder."""
    encoder = models.bert(shape, dtype=dtype, **options)
    return Bert(shape, encoder, models.mlm_head(shape, dtype=dtype), models.nsp_head(shape))


def pretraining(
    name: str,
    config: TextConfig,
    shape: models.BertShape,
    optimizer: tuple[optax.GradientTransformation, Callable[[Any], Any]],
    *,
    vocab_size: int = 30522,
    sentences: tuple[str, ...] = SENTENCES,
) -> Experiment:
    """BERT's pre-training as an experiment.

    Args:
        name: of the experiment's module.
        config: its options.
        shape: of the encoder; the corpus and `config` set its vocabulary and its dropout.
        optimizer: the optimiser and its learning rate as a function of the step.
        vocab_size: words, where `config.data` does not say.
        sentences: with a [MASK] each, filled in while it trains.

    Raises:
        BadInputError: the phases' options are not of one length, or nothing is prepared in `config.data`.
    """
    phases = read_phases(config)
    vocabulary = _vocabulary(config.data, vocab_size)
    rates = {"dropout": config.dropout, "attention_dropout": config.dropout}
    shape = dataclasses.replace(shape, vocab_size=len(vocabulary), **rates)
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    parts = build(shape, dtype, remat=config.remat, scan=config.scan)
    masking = Masking(
        vocab_size=len(vocabulary),
        mask_id=vocabulary.mask,
        special_ids=(vocabulary.cls, vocabulary.sep),  # as official: [UNK] may be predicted
        share=config.masked,
        max_predictions=tuple(zip(config.lengths, config.max_predictions, strict=True)),
        whole_word=config.whole_word,
        continuation=vocabulary.continuation if config.whole_word else b"",
        seed=config.seed,
        dupe_factor=config.dupe_factor or None,
    )
    return Experiment(
        name=name,
        label="bert",
        method=method.bert(parts.encoder, parts.mlm, parts.nsp, word_table=models.word_table),
        views=masking,
        optimizer=lambda steps_per_epoch: optimizer,
        batch_size=config.batch_sizes[0],
        task=lambda: _open_task(config, parts, phases, masking, vocabulary, sentences),
        steps=sum(config.steps),
    )


def check_phases(config: TextConfig, **options: tuple) -> None:
    """Refuse options that have not as many values as `config.steps`.

    Raises:
        BadInputError: naming the first such option.
    """
    for name, values in options.items():
        if not config.steps or len(values) != len(config.steps):
            raise BadInputError(
                f"{name}={values} and steps={config.steps}: give both as many values as there are phases."
            )


def read_phases(config: TextConfig) -> tuple[batches.Phase, ...]:
    """The phases that the options state.

    Raises:
        BadInputError: the options are not of one length.
    """
    check_phases(config, lengths=config.lengths, batch_sizes=config.batch_sizes, max_predictions=config.max_predictions)
    return tuple(map(batches.Phase, config.steps, config.lengths, config.batch_sizes))


def _vocabulary(data: str, size: int) -> Vocabulary:
    """That of the prepared corpus, or one with BERT's special ids where none is there yet to be read."""
    if data and data != PYTHON_TOPICS:
        return corpus.open_corpus(data).vocabulary
    words = BERT_RESERVED if size > len(BERT_RESERVED) else SPECIALS
    return Vocabulary((*words, *(f"[unused{len(BERT_RESERVED) + i}]" for i in range(size - len(words)))))


@functools.cache
def _topics_corpus(size: int) -> corpus.Corpus:
    folder = Path(tempfile.mkdtemp(prefix="python-topics-"))
    source = folder / "topics.txt"
    source.write_text(python_topics.as_text(python_topics.python_topics()))
    vocabulary = train_vocabulary(iter(source.read_text().splitlines()), size)
    prepare.prepare([str(source)], vocabulary, str(folder / "prepared"))
    return corpus.open_corpus(str(folder / "prepared"))


def _open_task(config, parts: Bert, phases, masking, vocabulary: Vocabulary, sentences) -> Task:
    everything = _open_corpus(config.data, len(vocabulary))
    words = everything.vocabulary
    sentences = text_scores.fitting(sentences, words, parts.shape.positions)
    devices = sharding.data_devices()
    for phase in phases:
        if phase.batch_size % devices:
            raise BadInputError(
                f"batch_size={phase.batch_size} does not divide over {devices} devices; take a multiple."
            )
    train, held_out = corpus.hold_out(everything, config.held_out)
    rows = min(phase.batch_size for phase in phases)
    tasks = text_finetune.read_tasks(config)
    drawing = {"seed": config.seed, "dupe_factor": config.dupe_factor or None}
    # words that are held out are judged at the length that the run begins with
    judged = functools.cache(lambda: text_scores.held_out_batch(held_out, masking, phases[0].length, rows))

    def monitor(params, aux):
        del aux
        found = text_scores.masked_figures(parts, params, judged()[0], rows)
        filled = text_scores.fill(parts, params, words, sentences, top=1)
        return {f"held_out_{name}": value for name, value in found.items()} | {"filled": filled}

    def evaluate(variables):
        batch, before = judged()
        results = text_scores.counted_baselines(train, batch, before)
        for label, (params, _) in variables.items():
            results[label] = text_scores.masked_figures(parts, params, batch, rows)
        *_, (label, (params, _)) = variables.items()
        return text_finetune.with_tasks(results, label, tasks, parts, params["encoder"], words, config)

    return Task(
        examples=batches.num_examples(train, phases[0], config.seed),
        batches=lambda first, last, shift: batches.batches(
            train, phases, start_step=first, num_steps=last, shift=shift, **drawing
        ),
        samples=lambda step, shift: batches.samples(train, phases, step, shift=shift, **drawing),
        fingerprint=everything.fingerprint,
        batch_shapes=tuple(map(batch_shapes, phases)),
        monitor=monitor,
        evaluate=evaluate,
        page=lambda params, aux, log: text_page.page(parts, params, words, sentences, log),
        export=lambda params, aux, directory: text_export.export(params, parts.shape, words, directory),
        headline=("loss", "mlm_accuracy", "held_out_mlm_accuracy"),
    )


def _open_corpus(data: str, words: int) -> corpus.Corpus:
    if not data:
        raise BadInputError("data='': give --data DIRECTORY, made by python -m experiments.bert_prepare.")
    return _topics_corpus(words) if data == PYTHON_TOPICS else corpus.open_corpus(data)


def batch_shapes(phase: batches.Phase) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of a phase, as shapes."""
    matrix, vector = (phase.batch_size, phase.length), (phase.batch_size,)
    shapes = {"tokens": matrix, "segments": matrix, "lengths": vector, "is_random": vector}
    shapes |= {"example": vector, "epoch": vector}
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
