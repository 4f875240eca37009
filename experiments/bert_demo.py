"""BERT on Python's own language reference: a few minutes on two CPU cores.

Paper: none; the method is BERT's, arXiv 1810.04805, at a small scale
Figure: none
Command: make demo-text
Cost: about four minutes on two CPU cores
Differs: everything but the method: two layers, a vocabulary of 1,200 words learnt from the text, sequences of 64
    tokens, no dropout, wider initial weights, positions that start as waves.
"""

import dataclasses

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.models.bert import BertShape
from ssljax.run.experiment import Experiment
from ssljax.text.task import PYTHON_TOPICS, TextConfig, pretraining

SENTENCES = (
    'The "while" statement is used for repeated execution as long as an [MASK] is true.',
    "A function definition is an executable [MASK].",
    "If the value is not found, a [MASK] is raised.",
    "The return value must be a string [MASK].",
    "This is the same [MASK] the object itself.",
)


@dataclasses.dataclass(frozen=True)
class Config(TextConfig):
    """The demo's settings."""

    data: str = PYTHON_TOPICS
    """Corpus directory made by experiments.bert_prepare; or python-topics, the language reference of this Python."""
    vocab_size: int = 1200
    """Number of words to learn from the text."""
    steps: tuple[int, ...] = (3000,)
    lengths: tuple[int, ...] = (64,)
    batch_sizes: tuple[int, ...] = (16,)
    max_predictions: tuple[int, ...] = (10,)
    held_out: int = 10
    dropout: float = 0.0
    layers: int = 2
    """Number of layers."""
    hidden: int = 128
    """Width of the layers."""
    heads: int = 4
    """Number of attention heads."""
    learning_rate: float = 1e-3
    """Base learning rate; linear warm-up over a tenth of the steps, then linear decay to 0."""
    initial_std: float = 0.05
    """Standard deviation of the initial weights; the paper's 0.02 is meant for a width of 768."""
    initial_positions: str = "sinusoidal"
    """Initial position table: "normal" as in the paper; "sinusoidal" learns sooner in a short run."""
    log_every: int = 50
    eval_every: int = 500
    save_every: int = 1000


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data."""
    shape = BertShape(
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        intermediate=4 * config.hidden,
        positions=max(config.lengths),
        initial_std=config.initial_std,
        initial_positions=config.initial_positions,
    )

    def optimizer(pace):
        return optim.bert_adamw(pace.line(config.learning_rate, pace.steps // 10))

    return pretraining(config, shape, optimizer, vocab_size=config.vocab_size, sentences=SENTENCES)


if __name__ == "__main__":
    main(Config, build, __doc__)
