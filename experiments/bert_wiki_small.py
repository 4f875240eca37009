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
    hidden: int = 256
    """Width."""
    heads: int = 4
    intermediate: int = 512
    """Width inside the feed-forward blocks."""
    learning_rate: float = 5e-4
    """At the end of the warm-up; a line from step 0 to 0 at the last."""
    warmup_steps: int = 1000
    weight_decay: float = 0.01
    """Of all but biases and LayerNorms."""
    initial_std: float = 0.02
    """Standard deviation of the initial weights."""
    initial_positions: str = "normal"
    """How the position table starts: "normal" is the paper's; from "sinusoidal" a short run learns sooner."""
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
