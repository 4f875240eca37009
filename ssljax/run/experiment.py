"""Run an experiment: from its frozen config to a trained state, a results table, a report and a record."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax

from ssljax import sharding
from ssljax.data.resident import Resident
from ssljax.run import compile_cache
from ssljax.run import compiler_check as canary
from ssljax.run import results as records
from ssljax.run import workdir as workdirs
from ssljax.run.pretraining import pretrain
from ssljax.run.results import Results
from ssljax.train.hosts import heartbeat, interruption, lock
from ssljax.train.hosts.heartbeat import Beat
from ssljax.train.hosts.interruption import Interruption
from ssljax.train.state import init_state
from ssljax.train.step import train_step
from ssljax.types import BadInputError, Batch, Method, PyTree


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The options that every experiment has."""

    workdir: str = ""
    """Where the run lives, a local or gs:// directory; empty: runs/NAME. The same command resumes it."""
    seed: int = 0
    """Of the weights, the order of the data and every random draw."""
    devices: int | None = None
    """Use the first so many devices; None: all."""
    shard_state: bool = False
    """Split the parameters, the optimiser's state and the momentum encoder over the devices, for their memory."""
    log_every: int = 50
    """Steps between log lines."""
    eval_every: int = 10
    """Epochs between online evaluations; steps where the recipe counts in steps."""
    save_every: int = 10
    """Epochs between checkpoints; steps where the recipe counts in steps."""
    keep: int = 2
    """So many of the newest checkpoints stay."""
    keep_every: int | None = None
    """So do those at multiples of so many epochs, or steps where the recipe counts in steps."""
    keep_best: str = ""
    """And the best by a logged figure: NAME:max or NAME:min, such as knn:max."""
    stop_after: int | None = None
    """End after so many steps instead of the recipe's; the schedules stay those of the whole recipe."""
    allow: tuple[str, ...] = ()
    """Options that may differ from those that the run in the workdir began with."""
    stall_timeout: int = 120
    """Seconds without a step, compilation apart, after which all processes end and name the one behind; 0: never."""
    steps_per_dispatch: int | None = None
    """Hand the device so many steps at once (1 to 8) where the data lies on it; None: 1 on a CPU, elsewhere as many as
    divide the steps between log lines, evaluations and checkpoints."""
    profile: int = 0
    """Trace so many steps, once they run evenly, into WORKDIR/profile, for TensorBoard and Perfetto; 0: none."""
    compile_cache: str | None = None
    """Directory that keeps compiled programs from run to run; None: in the user's cache; empty: none is kept."""
    canary: bool = True
    """Check at the start that compiled code computes here what it should."""
    record: bool = False
    """Append the result to experiments/results/NAME.json."""


class Task(NamedTuple):
    """What a field brings to a run.

    Attributes:
        examples: how many training examples there are.
        batches: `(first_step, last_step, shift) -> iterator` of global batches on the devices; the batch of step n
            holds the data of n + `shift`.
        undrawn: the same, but a set that lies on the devices comes as the `resident.Resident` that the train step
            draws these batches from; None: `batches`.
        samples: `(step, shift) -> list` that names the samples of such a batch.
        fingerprint: of the data: a run is not taken up with other data.
        batch_shapes: a batch of each shape that `batches` yields, in order, as `jax.ShapeDtypeStruct`s.
        monitor: `(params, aux) -> {name: figure}` during training; anything else that JSON holds is logged as well.
        evaluate: `({row: (params, aux)}) -> {row: {column: figure}}` at the end; rows may be added.
        page: `(params, aux, log) -> {field of Report: value}`, what the report shows besides curves and table; `log`
            are the rows of metrics.jsonl.
        export: `(params, aux, directory)` leaves the trained encoder there for other libraries.
        headline: the figures that the progress bar shows.
    """

    examples: int
    batches: Callable[[int, int, int], Iterator[Batch]]
    samples: Callable[[int, int], list[Any]]
    fingerprint: str
    batch_shapes: tuple[Batch, ...]
    monitor: Callable[[PyTree, PyTree], dict[str, Any]]
    evaluate: Callable[[dict[str, tuple[PyTree, PyTree]]], Results]
    page: Callable[[PyTree, PyTree, list[dict[str, Any]]], dict[str, Any]]
    export: Callable[[PyTree, PyTree, str], None]
    headline: tuple[str, ...] = ("loss",)
    undrawn: Callable[[int, int, int], Iterator[Batch | Resident]] | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A recipe, ready to run.

    Attributes:
        name: the experiment module's name.
        label: the row of the results table that is the trained model, such as "moco".
        method: the pre-training method.
        views: `(key, **batch) -> batch of the method`, hashable.
        optimizer: `steps_per_epoch -> (optax optimiser, learning rate as a function of the step)`.
        batch_size: global; of the first batches, if it changes.
        task: opens the data; called once, when the run starts.
        epochs: of the recipe; or, where it counts in updates,
        steps: of the recipe.
        scheduled: `steps_per_epoch -> method` where the method has a schedule of its own, such as a momentum that rises
            to 1; the run's method then is this one instead of `method`.
    """

    name: str
    label: str
    method: Method
    views: Any
    optimizer: Callable[[int], tuple[optax.GradientTransformation, Callable[[Any], Any]]]
    batch_size: int
    task: Callable[[], Task]
    epochs: int | None = None
    steps: int | None = None
    scheduled: Callable[[int], Method] | None = None

    def paced(self, steps_per_epoch: int) -> "Experiment":
        """The experiment with the method that follows its schedule over so many updates an epoch."""
        return self if self.scheduled is None else dataclasses.replace(self, method=self.scheduled(steps_per_epoch))

    def length(self, steps_per_epoch: int) -> tuple[int, int]:
        """The recipe's updates, and the updates of one unit of `eval_every` and `save_every`."""
        if self.epochs is not None:
            return self.epochs * steps_per_epoch, steps_per_epoch
        return self.steps or 0, 1


def run(config: RunConfig, experiment: Experiment, description: str = "") -> Results:
    """Train (or take up) the experiment in `config.workdir`, evaluate it and write results.json and report.html.

    A finished run is shown again, not repeated.

    Raises:
        BadInputError: an option or the data will not do, or the directory holds another run or is in use.
        Interrupted: a signal came; what was reached is saved.
        DivergedError: the loss is not finite, whatever was tried.
        SaveError: checkpoints cannot be written.
    """
    workdir = config.workdir or f"runs/{experiment.name}"
    # jax ends a run whose processes do not hear of each other; ours, which names the one behind, has to come first
    sharding.start_hosts(heartbeat_timeout=config.stall_timeout + 60)
    finished = workdirs.check(workdir, config, experiment.name)
    if finished is not None:
        print(f"{workdir} holds this run, finished: here are its results. Choose another --workdir to train again.")
        records.print_table(finished)
        return finished
    compile_cache.keep(config.compile_cache)
    mesh = sharding.make_mesh(config.devices)
    if config.canary:
        canary.check(bfloat16=getattr(config, "bfloat16", False))
    with interruption.watch() as stop, sharding.use_mesh(mesh):
        with stop.leaving_allowed():
            task = experiment.task()
            if task.examples < experiment.batch_size:
                raise BadInputError(
                    f"batch_size={experiment.batch_size}: there are only {task.examples} training examples; "
                    "choose a smaller batch."
                )
            steps_per_epoch = task.examples // experiment.batch_size
            experiment, (optimizer, schedule) = experiment.paced(steps_per_epoch), experiment.optimizer(steps_per_epoch)
            check_shapes(config, experiment, task, optimizer)
            workdirs.check_data(workdir, task.fingerprint)
        # what will not do is refused before anything is written
        with lock.hold(workdir), heartbeat.watch(workdir, config.stall_timeout) as beat:
            return _run(workdir, config, experiment, description, task, optimizer, schedule, stop, beat)


def _run(
    workdir: str,
    config: RunConfig,
    experiment: Experiment,
    description: str,
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    stop: Interruption,
    beat: Beat,
) -> Results:
    began = time.time()
    with stop.leaving_allowed(), beat.busy("starting"):
        workdirs.claim(workdir, config, experiment.name)
        method, views, first = experiment.method, experiment.views, task.batch_shapes[0]
        state = init_state(method, optimizer, views, first, config.seed, shard_state=config.shard_state)
        untrained = jax.tree.map(jax.numpy.copy, (state.params, state.aux))
    pretrained = pretrain(workdir, config, experiment, task, optimizer, schedule, state, stop, beat)
    with stop.leaving_allowed(), beat.busy("evaluating"):
        params, aux, untrained = sharding.gather((pretrained.state.params, pretrained.state.aux, untrained))
        trained = (params, aux)
        results = task.evaluate({"untrained": untrained, experiment.label: trained})
        page = task.page(*trained, pretrained.rows)
        if jax.process_index() == 0:
            task.export(*trained, workdir)
            environment = records.environment(seconds_training=pretrained.seconds, seconds=time.time() - began)
            rows = pretrained.rows
            records.write_report(workdir, config, experiment.name, description, results, environment, rows, page)
            # last: results.json says that the run is finished
            records.write_results(workdir, config, experiment.name, results, environment, rows)
            records.print_table(results)
            print(f"The report is {workdir}/report.html")
    return results


def check_shapes(
    config: RunConfig, experiment: Experiment, task: Task, optimizer: optax.GradientTransformation
) -> None:
    """Trace a step of each shape without compiling it, so that what does not fit is refused within seconds.

    Raises:
        BadInputError: from whichever part it does not fit.
    """

    def one_step(seed, first, batch):
        state = init_state(experiment.method, optimizer, experiment.views, first, seed, shard_state=config.shard_state)
        return train_step(
            state, sharding.shard(batch), method=experiment.method, views=experiment.views, optimizer=optimizer
        )

    for batch in task.batch_shapes:
        jax.eval_shape(one_step, 0, task.batch_shapes[0], batch)
