"""The command line of an experiment module, and of `python -m experiments`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ssljax.cli.arguments import parse
from ssljax.run import experiment, ranges
from ssljax.run.config import RunConfig
from ssljax.run.finishing import UnfinishedError
from ssljax.run.ledger import paragraphs
from ssljax.train.checkpoint import SaveError
from ssljax.train.collapse import CollapsedError
from ssljax.train.guard import DivergedError
from ssljax.train.hosts import exits, interruption
from ssljax.train.hosts.interruption import Interrupted
from ssljax.types import BadInputError

Config = TypeVar("Config", bound=RunConfig)


def main(config_type: type[Config], build: Callable[[Config], experiment.Experiment], description: str | None) -> None:
    """Parse the command line into `config_type`, build the experiment and run it.

    Exits with one sentence on standard error: with 2 for invalid input, with 75 after a signal, once the
    state is saved, with 76 when a process of the run is stuck or dead, with 1 when it diverges, collapses,
    cannot save, or an evaluation or the report failed.

    Args:
        config_type: a frozen dataclass with a default for every field.
        build: `config -> Experiment`; reads no data.
        description: the module's docstring, shown by `--help` and in the report.
    """
    with interruption.watch():
        name = Path(sys.modules[config_type.__module__].__file__ or "NAME").stem
        config = parse(config_type, prog=f"python -m experiments.{name}", description=paragraphs(description or ""))

        def start() -> None:
            ranges.check(config)
            experiment.run(config, build(config), description or "")

        run_or_exit(start)


def run_or_exit(start: Callable[[], Any]) -> None:
    """Call `start`, and exit as `main` states if it raises."""
    with interruption.watch():
        try:
            start()
        except BadInputError as error:
            sys.exit(refuse(error))
        except Interrupted as stopped:
            exits.exit_interrupted(str(stopped))
        except (DivergedError, CollapsedError, SaveError, UnfinishedError) as error:
            sys.exit(f"error: {error}")


def refuse(error: BadInputError) -> int:
    """Print the error's sentence on standard error; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 2
