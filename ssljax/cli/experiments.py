"""The command line of an experiment module, and of `python -m experiments`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ssljax.run import experiment
from ssljax.run.ledger import paragraphs
from ssljax.train.checkpoint import SaveError
from ssljax.train.guard import DivergedError
from ssljax.train.hosts import exits as leaving
from ssljax.train.hosts import interruption
from ssljax.train.hosts.interruption import Interrupted
from ssljax.types import BadInputError

Config = TypeVar("Config", bound=experiment.RunConfig)


def main(config_type: type[Config], build: Callable[[Config], experiment.Experiment], description: str | None) -> None:
    """Parse the command line into `config_type`, build the experiment and run it.

    Exits with one sentence on standard error: with 2 when the user's input will not do, with 75 when a signal came
    and everything is saved, with 76 when a process of the run is stuck or dead, with 1 when it diverges or cannot save.

    Args:
        config_type: a frozen dataclass with a default for every field.
        build: `config -> Experiment`; reads no data.
        description: the module's docstring, shown by `--help` and in the report.
    """
    with interruption.watch():
        import tyro

        name = Path(sys.modules[config_type.__module__].__file__ or "NAME").stem
        config = tyro.cli(config_type, prog=f"python -m experiments.{name}", description=paragraphs(description or ""))
        try:
            experiment.run(config, build(config), description or "")
        except BadInputError as error:
            sys.exit(refuse(error))
        except Interrupted as stopped:
            leaving.leave(str(stopped))
        except (DivergedError, SaveError) as error:
            sys.exit(f"error: {error}")


def refuse(error: BadInputError) -> int:
    """Print the error's sentence on standard error; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 2
