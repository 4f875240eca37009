"""BERT-base, uncased, on a corpus of one's own.

Paper: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv 1810.04805
Figure: GLUE test average 79.6; SST-2 93.5, MRPC F1 88.9, CoLA 52.1; SQuAD 1.1 dev F1 88.5 (table 2), EM 80.8
Command: python -m experiments.bert_base --data prepared --bfloat16 --workdir runs/bert_base
Cost: not measured; four days on 16 TPU chips in the paper
Differs: the corpus, which was BooksCorpus and English Wikipedia; masks and pairs are drawn anew in every epoch unless
    --dupe-factor 10.
"""

import dataclasses

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.models.bert import SIZES
from ssljax.run.experiment import Experiment
from ssljax.text.task import TextConfig, pretraining


@dataclasses.dataclass(frozen=True)
class Config(TextConfig):
    """The paper's recipe: a million steps, the last tenth at length 512."""

    learning_rate: float = 1e-4
    """Base learning rate; linear warm-up, then linear decay to 0, counted from step 0."""
    warmup_steps: int = 10_000
    """Number of warm-up steps."""
    weight_decay: float = 0.01
    """Weight decay, on all parameters except biases and LayerNorms."""


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data but a prepared corpus' vocabulary."""

    def optimizer(pace):
        rate = pace.line(config.learning_rate, config.warmup_steps)
        return optim.bert_adamw(rate, weight_decay=config.weight_decay)

    return pretraining(config, SIZES["base"], optimizer)


if __name__ == "__main__":
    main(Config, build, __doc__)
