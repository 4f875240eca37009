"""The range of every number that is an option of an experiment or a command, in one table."""

import dataclasses
from typing import Any, NamedTuple

from ssljax.types import BadInputError


class Range(NamedTuple):
    """From `least` to `most`, both included unless `above`: then `least` itself is not."""

    least: float
    most: float
    above: bool = False

    def __str__(self) -> str:
        least, most = (int(end) if end == int(end) else end for end in (self.least, self.most))
        return f"above {least} and at most {most}" if self.above else f"from {least} to {most}"

    def holds(self, value: float) -> bool:
        """Whether a number is in it; NaN is in none."""
        return (self.least < value if self.above else self.least <= value) and value <= self.most


STEPS = Range(1, 2**31 - 1)  # jax counts them in 32 bits
STEPS_OR_NONE = Range(0, 2**31 - 1)
ROWS = Range(1, 2**24)
WIDTH = Range(1, 2**16)
FEW = Range(1, 1000)
RATE = Range(0, 1e4)
SHARE = Range(0, 1)
SHARE_ABOVE_0 = Range(0, 1, above=True)

RANGES = {
    **dict.fromkeys(("steps", "stop_after", "log_every", "keep", "keep_every", "milestones"), STEPS),
    **dict.fromkeys(("eval_every", "save_every", "warmup_steps", "warmup_epochs", "stall_timeout"), STEPS_OR_NONE),
    **dict.fromkeys(("batch_size", "batch_sizes", "probe_batch_size", "queue_size", "train_examples"), ROWS),
    **dict.fromkeys(("epochs", "finetune_epochs", "probe_epochs"), Range(1, 10**6)),
    **dict.fromkeys(("embedding_dim", "hidden", "intermediate", "projector", "width"), WIDTH),
    **dict.fromkeys(("length", "lengths", "max_answer", "max_predictions", "max_query", "stride"), WIDTH),
    **dict.fromkeys(("size", "test_size"), Range(1, 2**13)),
    **dict.fromkeys(("batch_norm_groups", "devices", "heads", "layers", "n_best", "stage_sizes"), Range(1, 2**12)),
    **dict.fromkeys(("draws", "finetune_seeds", "seeds"), FEW),
    **dict.fromkeys(("learning_rate", "learning_rates", "finetune_learning_rate", "probe_learning_rate"), RATE),
    **dict.fromkeys(("dropout", "momentum", "sgd_momentum", "warmup", "warmups", "mean"), SHARE),
    **dict.fromkeys(("crop", "masked", "std"), SHARE_ABOVE_0),
    **dict.fromkeys(("jitter", "jitter_strength"), Range(0, 100)),
    "dupe_factor": Range(0, 10**6),
    "held_out": Range(1, 2**31 - 1),
    "initial_std": Range(0, 100, above=True),
    "max_length": Range(3, 2**16),
    "profile": Range(0, 10**4),
    "seed": Range(0, 2**32 - 1),  # beyond it jax's keys repeat
    "steps_per_dispatch": Range(1, 8),
    "top": Range(1, 2**22),
    "temperature": Range(0, 1e4, above=True),
    "train_vocab": Range(1, 2**22),
    "vocab_size": Range(1, 2**22),
    "weight_decay": Range(0, 1e4),
    "workers": Range(0, 2**10),
}


def check(config: Any) -> None:
    """Refuse the first number of a config that is out of its range, before anything is opened or compiled.

    Args:
        config: a dataclass instance; options that are None, or no numbers, are passed over.

    Raises:
        BadInputError: naming the option, its value and its range.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        each = value if isinstance(value, tuple) else (value,)
        numbers = [number for number in each if isinstance(number, int | float) and not isinstance(number, bool)]
        if field.name in RANGES and not all(map(RANGES[field.name].holds, numbers)):
            wrong = next(number for number in numbers if not RANGES[field.name].holds(number))
            kind = "a number" if isinstance(wrong, float) else "a whole number"
            raise BadInputError(f"{field.name}={_shown(value)}: give {kind} {RANGES[field.name]}.")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
