"""BERT-large by LAMB with large batches: NVIDIA's recipe.

Paper: Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, arXiv 1904.00962; the numbers are
    those of NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT
Figure: SQuAD 1.1 dev F1 90.58 with batches of 64k and 32k (table 1)
Command: python -m experiments.bert_large_lamb --data prepared --bfloat16 --scan --remat --workdir runs/bert_large_lamb
Cost: not measured
Differs: as bert_base; no gradient accumulation, so a batch must fit on the devices.
"""

import dataclasses
import itertools

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.models.bert import SIZES
from ssljax.run.experiment import Experiment
from ssljax.text.task import TextConfig, check_phases, pretraining


@dataclasses.dataclass(frozen=True)
class Config(TextConfig):
    """Two phases with rates of their own."""

    steps: tuple[int, ...] = (7038, 1563)
    batch_sizes: tuple[int, ...] = (65536, 32768)
    max_predictions: tuple[int, ...] = (20, 80)
    learning_rates: tuple[float, ...] = (6e-3, 4e-3)
    """Peak learning rate of each phase, after its warm-up; then polynomial decay to 0 with power 0.5."""
    warmups: tuple[float, ...] = (0.2843, 0.128)
    """Warm-up of each phase, as a share of its steps."""
    weight_decay: float = 0.01
    """Weight decay, on all parameters except biases and LayerNorms."""
    save_every: int = 500


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data but a prepared corpus' vocabulary."""
    check_phases(config, learning_rates=config.learning_rates, warmups=config.warmups)
    rates = map(optim.polynomial_with_warmup, config.learning_rates, config.steps, config.warmups)
    rate = optim.in_phases(*zip(config.steps, rates, strict=True))
    restarts = tuple(itertools.accumulate(config.steps[:-1]))
    optimizer = optim.lamb(rate, weight_decay=config.weight_decay, restarts=restarts)
    return pretraining(config, SIZES["large"], lambda pace: optimizer)


if __name__ == "__main__":
    main(Config, build, __doc__)
