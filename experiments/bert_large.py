"""BERT-large, uncased, on a corpus of one's own.

Paper: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv 1810.04805
Figure: GLUE test average 82.1; SST-2 94.9, MRPC F1 89.3, CoLA 60.5; SQuAD 1.1 dev F1 90.9, EM 84.1
Command: python -m experiments.bert_large --data prepared --bfloat16 --scan --remat --workdir runs/bert_large
Cost: not measured; four days on 64 TPU chips in the paper
Differs: as bert_base.
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

    return pretraining(config, SIZES["large"], optimizer)


if __name__ == "__main__":
    main(Config, build, __doc__)
