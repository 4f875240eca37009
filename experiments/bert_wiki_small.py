"""A small BERT on Wikipedia: the gate that Keras Hub's guide to pre-training sets.

Paper: none; "Transformer pretraining" of Keras Hub's guides: WikiText-103, masked words only
Figure: masked words right 45.5 per cent, validation loss 2.639; SST-2 85.5
Command: python -m experiments.bert_wiki_small --data prepared --bfloat16 --workdir runs/bert_wiki_small
Cost: not measured
Differs: with next-sentence prediction, on the text that is given, with its length of 46,856 steps.
"""

import dataclasses

from ssljax import optim
from ssljax.cli.experiments import main
from ssljax.models.bert import BertShape
from ssljax.run.experiment import Experiment
from ssljax.text.task import TextConfig, pretraining


@dataclasses.dataclass(frozen=True)
class Config(TextConfig):
    """Three layers of width 256, a quarter of the words masked."""

    steps: tuple[int, ...] = (46_856,)
    lengths: tuple[int, ...] = (128,)
    batch_sizes: tuple[int, ...] = (128,)
    max_predictions: tuple[int, ...] = (32,)
    masked: float = 0.25
    layers: int = 3
    """Number of layers."""
    hidden: int = 256
    """Width of the layers."""
    heads: int = 4
    """Number of attention heads."""
    intermediate: int = 512
    """Width inside the feed-forward blocks."""
    learning_rate: float = 5e-4
    """Base learning rate; linear warm-up, then linear decay to 0, counted from step 0."""
    warmup_steps: int = 1000
    """Number of warm-up steps."""
    weight_decay: float = 0.01
    """Weight decay, on all parameters except biases and LayerNorms."""
    initial_std: float = 0.02
    """Standard deviation of the initial weights."""
    initial_positions: str = "normal"
    """Initial position table: "normal" as in the paper; "sinusoidal" learns sooner in a short run."""
    eval_every: int = 2000
    save_every: int = 5000


def build(config: Config) -> Experiment:
    """The experiment of `config`; reads no data but a prepared corpus' vocabulary."""
    shape = BertShape(
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        intermediate=config.intermediate,
        positions=max(config.lengths),
        initial_std=config.initial_std,
        initial_positions=config.initial_positions,
    )

    def optimizer(pace):
        rate = pace.line(config.learning_rate, config.warmup_steps)
        return optim.bert_adamw(rate, weight_decay=config.weight_decay)

    return pretraining(config, shape, optimizer)


if __name__ == "__main__":
    main(Config, build, __doc__)
