"""The BERT miniatures: tiny, mini, small and medium.

Paper: Well-Read Students Learn Better: On the Importance of Pre-training Compact Models, arXiv 1908.08962
Figure: GLUE test score / SST-2 / MRPC F1: tiny 64.2 / 83.2 / 81.1, mini 65.8 / 85.9 / 81.1, small 71.2 / 89.7 / 83.4,
    medium 73.5 / 89.6 / 86.6, with distillation
Command: python -m experiments.bert_miniatures --size mini --data prepared --workdir runs/bert_mini
Cost: not measured
Differs: pre-training alone, with bert_base's numbers; the paper's figures are after distillation on each task.
"""

import dataclasses
from typing import Literal

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.models.bert import SIZES
from ssljax.run.experiment import Experiment
from ssljax.text.task import TextConfig, pretraining


@dataclasses.dataclass(frozen=True)
class Config(TextConfig):
    """bert_base's recipe at a smaller size."""

    size: Literal["tiny", "mini", "small", "medium"] = "tiny"
    """Size of the encoder: 2 layers of width 128, 4 of 256, 4 of 512 or 8 of 512."""
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

    return pretraining(config, SIZES[config.size], optimizer)


if __name__ == "__main__":
    main(Config, build, __doc__)
