"""The command line of an experiment module, and of `python -m experiments`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ssljax import experiment
from ssljax.rows import paragraphs
from ssljax.types import BadInputError

Config = TypeVar("Config", bound=experiment.RunConfig)


def main(config_type: type[Config], build: Callable[[Config], experiment.Experiment], description: str | None) -> None:
    """Parse the command line into `config_type`, build the experiment and run it.

    Exits with 2 and one sentence on standard error when the user's input will not do.

    Args:
        config_type: a frozen dataclass with a default for every field.
        build: `config -> Experiment`; reads no data.
        description: the module's docstring, shown by `--help` and in the report.
    """
    import tyro

    name = Path(sys.modules[config_type.__module__].__file__ or "NAME").stem
    config = tyro.cli(config_type, prog=f"python -m experiments.{name}", description=paragraphs(description or ""))
    try:
        experiment.run(config, build(config), description or "")
    except BadInputError as error:
        sys.exit(refuse(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command takes it up at the last checkpoint.")


def refuse(error: BadInputError) -> int:
    """Print the error's sentence on standard error; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 2
