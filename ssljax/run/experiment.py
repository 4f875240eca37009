"""Run an experiment: from its frozen config to a trained state, a results table, a report and a record."""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

from ssljax import sharding
from ssljax.optim import Optimizer, Pace
from ssljax.run import compile_cache, compiler_check, finishing, programs, ranges, results, workdir
from ssljax.run.config import RunConfig
from ssljax.run.pretraining import Run, pretrain
from ssljax.run.results import Results
from ssljax.run.task import Task
from ssljax.train import checkpoint
from ssljax.train.hosts import heartbeat, interruption, joining, lock
from ssljax.types import BadInputError, Method


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A recipe, ready to run.

    Attributes:
        name: the experiment module's name.
        label: the row of the results table that is the trained model, such as "moco".
        method: `pace -> method`; a method without schedules does not look at the pace.
        views: `(key, **batch) -> batch of the method`, hashable.
        optimizer: `pace -> optimizer`.
        batch_size: global; of the first batches, if it changes.
        task: opens the data; called once, when the run starts.
        epochs: of the recipe; or, where it counts in updates,
        steps: of the recipe.
        untrained: the row of the results table that is the model before the first step.
    """

    name: str
    label: str
    method: Callable[[Pace], Method]
    views: Any
    optimizer: Callable[[Pace], Optimizer]
    batch_size: int
    task: Callable[[], Task]
    epochs: int | None = None
    steps: int | None = None
    untrained: str = "untrained"

    def pace(self, examples: int) -> Pace:
        """The length of a run over so many training examples.

        Raises:
            BadInputError: there are fewer than a batch.
        """
        if examples < self.batch_size:
            raise BadInputError(
                f"batch_size={self.batch_size}: there are only {examples} training examples; use a smaller batch."
            )
        if self.epochs is not None:
            return Pace(self.epochs, examples // self.batch_size)
        return Pace(self.steps or 0, 1)


def run(config: RunConfig, experiment: Experiment, description: str = "") -> Results:
    """Train or resume the experiment in `config.workdir`, export the encoder, evaluate it and write the report.

    The results of a finished run are shown again, nothing is repeated.

    Raises:
        BadInputError: an option or the data is invalid, or the directory holds another run or is in use.
        Interrupted: a signal came; the state is saved.
        DivergedError: the loss is not finite, and restoring checkpoints did not help.
        CollapsedError: the representation has collapsed, and `on_collapse` is "stop", or rollbacks did not help.
        SaveError: checkpoints cannot be written.
        UnfinishedError: training is done, and an evaluation or the report failed.
    """
    ranges.check(config)
    directory = os.path.expanduser(config.workdir or f"runs/{experiment.name}")
    # jax ends a run whose processes do not hear of each other; ours, which names the stuck one, has to come first
    joining.start_hosts(heartbeat_timeout=config.stall_timeout + 60)
    finished = workdir.check(directory, config, experiment.name)
    if finished is not None and finishing.has_report(directory):
        print(f"The run in {directory} is finished; these are its results. Use another --workdir to train again.")
        results.print_table(finished)
        return finished
    cache = compile_cache.keep(config.compile_cache)
    mesh = sharding.make_mesh(config.devices)
    if config.compiler_check:
        compiler_check.check(cache, bfloat16=getattr(config, "bfloat16", False))
    with interruption.watch() as stop, sharding.use_mesh(mesh):
        stop.record_saved(checkpoint.latest_step(directory))
        with stop.interruptible():
            task = experiment.task()
            pace = experiment.pace(task.examples)
            method, optimizer = experiment.method(pace), experiment.optimizer(pace)
            compiled = programs.compile_programs(config, experiment, task, method, optimizer)
            programs.check(compiled, task, method)
            workdir.check_data(directory, task.fingerprint)
        # what the trace finds invalid is refused before anything is written
        with lock.hold(directory), heartbeat.watch(directory, config.stall_timeout) as beat:
            prepared = Run(
                workdir=directory,
                config=config,
                experiment=experiment,
                description=description,
                task=task,
                pace=pace,
                method=method,
                programs=compiled,
                stop=stop,
                heartbeat=beat,
            )
            return _run(prepared)


def _run(run: Run) -> Results:
    began = time.time()
    with run.stop.interruptible(), run.heartbeat.busy("starting"):
        workdir.claim(run.workdir, run.config, run.experiment.name)
        state = run.programs.init()
    pretrained = pretrain(run, state)
    with run.stop.interruptible(), run.heartbeat.busy("evaluating"):
        return finishing.finish(run, pretrained, began)
