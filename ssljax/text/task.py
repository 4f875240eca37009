"""Text as a task: how an experiment reads a prepared corpus, evaluates on held-out words, scores and exports a BERT."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ssljax.methods import bert as method
from ssljax.models import bert as models
from ssljax.optim import Optimizer, Pace
from ssljax.run import results
from ssljax.run.config import RunConfig
from ssljax.run.experiment import Experiment
from ssljax.run.task import Task
from ssljax.text import batches, corpus, export, finetuning, page, prepare, python_topics, scores
from ssljax.text.masking import Masking
from ssljax.text.reading import read_lines
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
    """Corpus directory made by experiments.bert_prepare; or python-topics, the language reference of this Python."""
    steps: tuple[int, ...] = (900_000, 100_000)
    """Number of updates in each phase."""
    lengths: tuple[int, ...] = (128, 512)
    """Sequence length in tokens in each phase."""
    batch_sizes: tuple[int, ...] = (256, 256)
    """Sequences per batch in each phase, over all devices."""
    max_predictions: tuple[int, ...] = (20, 76)
    """Maximum number of masked tokens per sequence in each phase."""
    masked: float = 0.15
    """Share of the tokens to predict."""
    whole_word: bool = False
    """Mask all pieces of a word or none."""
    dupe_factor: int = 0
    """Number of fixed maskings and pairings of the corpus, repeated; 0: new ones in every epoch."""
    held_out: int = 100
    """Hold out one document in this many for evaluation."""
    workers: int = 0
    """Number of processes that draw batches ahead; 0: a thread. One keeps a fast accelerator from waiting."""
    dropout: float = 0.1
    """Dropout rate, on embeddings, on the output of each block and on attention probabilities."""
    bfloat16: bool = False
    """Compute in bfloat16; parameters, statistics of the norms, softmax and loss are always float32."""
    remat: bool = False
    """Recompute each layer in the backward pass: less memory, a third more compute."""
    scan: bool = False
    """Compile one layer and loop over it."""
    finetune: tuple[str, ...] = ()
    """GLUE tasks to fine-tune on at the end, as TASK:DIRECTORY, such as SST-2:glue/SST-2, or TASK:tfds:NAME."""
    finetune_seeds: int = 5
    """Number of fine-tuning runs per task, one per seed."""
    finetune_epochs: int = 3
    """Number of passes over the training examples of each task."""
    finetune_learning_rate: float = 1e-4
    """Base learning rate of fine-tuning; linear warm-up, then linear decay to 0."""
    eval_every: int = 10_000
    save_every: int = 10_000


def build(shape: models.BertShape, dtype: Any = jnp.float32, **options: Any) -> Bert:
    """The parts of `shape`; `options` are `remat` and `scan` of the encoder."""
    encoder = models.bert(shape, dtype=dtype, **options)
    return Bert(shape, encoder, models.mlm_head(shape, dtype=dtype), models.nsp_head(shape))


def pretraining(
    config: TextConfig,
    shape: models.BertShape,
    optimizer: Callable[[Pace], Optimizer],
    *,
    vocab_size: int = 30522,
    sentences: tuple[str, ...] = SENTENCES,
) -> Experiment:
    """BERT's pre-training as an experiment, named as the module that defines the config.

    Args:
        config: its options.
        shape: shape of the encoder; the corpus and `config` set its vocabulary and its dropout.
        optimizer: `pace -> optimizer`, over all updates.
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
        name=results.module_of(config),
        label="bert",
        method=lambda pace: method.bert(parts.encoder, parts.mlm, parts.nsp, word_table=models.word_table),
        views=masking,
        optimizer=optimizer,
        batch_size=config.batch_sizes[0],
        task=lambda: _open_task(config, parts, phases, masking, vocabulary, sentences),
        steps=sum(config.steps),
    )


def check_phases(config: TextConfig, **options: tuple) -> None:
    """Refuse options that do not have the number of values of `config.steps`.

    Raises:
        BadInputError: naming the first such option.
    """
    for name, values in options.items():
        if not config.steps or len(values) != len(config.steps):
            raise BadInputError(f"{name}={values} and steps={config.steps}: give both one value per phase.")


def read_phases(config: TextConfig) -> tuple[batches.Phase, ...]:
    """The phases that the options state.

    Raises:
        BadInputError: the options are not of one length.
    """
    check_phases(config, lengths=config.lengths, batch_sizes=config.batch_sizes, max_predictions=config.max_predictions)
    return tuple(map(batches.Phase, config.steps, config.lengths, config.batch_sizes))


def _vocabulary(data: str, size: int) -> Vocabulary:
    """The vocabulary of the prepared corpus, or one with BERT's special ids if it has none yet."""
    if data and data != PYTHON_TOPICS:
        return corpus.open_corpus(data).vocabulary
    words = BERT_RESERVED if size > len(BERT_RESERVED) else SPECIALS
    return Vocabulary((*words, *(f"[unused{len(BERT_RESERVED) + i}]" for i in range(size - len(words)))))


@functools.cache
def _topics_corpus(size: int) -> corpus.Corpus:
    folder = Path(tempfile.mkdtemp(prefix="python-topics-"))
    source = folder / "topics.txt"
    source.write_text(python_topics.as_text(python_topics.python_topics()))
    vocabulary = train_vocabulary(read_lines(source), size)
    prepare.prepare([str(source)], vocabulary, str(folder / "prepared"))
    return corpus.open_corpus(str(folder / "prepared"))


def _open_task(config, parts: Bert, phases, masking, vocabulary: Vocabulary, sentences) -> Task:
    everything = _open_corpus(config.data, len(vocabulary))
    words = everything.vocabulary
    sentences = scores.fitting(sentences, words, parts.shape.positions)
    train, held_out = corpus.hold_out(everything, config.held_out)
    rows = min(phase.batch_size for phase in phases)
    tasks = finetuning.read_tasks(config)
    drawing = {"seed": config.seed, "dupe_factor": config.dupe_factor or None}
    # held-out words are evaluated at the length of the first phase
    judged = functools.cache(lambda: scores.held_out_batch(held_out, masking, phases[0].length, rows))

    def monitor(learner):
        found = scores.masked_figures(parts, learner.params, judged()[0], rows)
        filled = scores.fill(parts, learner.params, words, sentences, top=1)
        return {f"held_out_{name}": value for name, value in found.items()} | {"filled": filled}

    def evaluations(models):
        *_, (label, trained) = models.items()

        def masked(label, learner):
            return {label: scores.masked_figures(parts, learner.params, judged()[0], rows)}

        found = {"counted words": lambda: scores.counted_baselines(train, *judged())}
        found |= {name: functools.partial(masked, name, learner) for name, learner in models.items()}
        encoder = trained.params["encoder"]
        return found | finetuning.evaluations(label, tasks, parts, encoder, words, config)

    return Task(
        examples=batches.num_examples(train, phases[0], config.seed),
        batches=lambda first, last, shift: batches.batches(
            train, phases, start_step=first, num_steps=last, shift=shift, workers=config.workers, **drawing
        ),
        samples=lambda step, shift: batches.samples(train, phases, step, shift=shift, **drawing),
        fingerprint=everything.fingerprint,
        batch_shapes=tuple(map(batch_shapes, phases)),
        monitor=monitor,
        evaluations=evaluations,
        page=lambda learner, log: page.page(parts, learner.params, words, sentences, log),
        export=lambda learner, directory: export.export(learner.params, parts.shape, words, directory),
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
