"""Train an experiment in its directory: resume, monitor, save, stop when asked, roll back when it diverges."""

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax

from ssljax import sharding
from ssljax.optim import Pace
from ssljax.run import workdir as directories
from ssljax.run.config import RunConfig
from ssljax.run.programs import Programs
from ssljax.run.running import Running
from ssljax.run.task import Task
from ssljax.train import checkpoint, collapse
from ssljax.train.hosts.heartbeat import Heartbeat
from ssljax.train.hosts.interruption import Interruption
from ssljax.train.logging import RunLog, read_metrics
from ssljax.train.loop import dispatch_size, fit
from ssljax.train.profile import Profile
from ssljax.train.state import TrainState
from ssljax.types import BadInputError, Method

if TYPE_CHECKING:
    from ssljax.run.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a run is made of, from its directory to its heartbeat.

    Attributes:
        workdir: its directory.
        config: its options.
        experiment: an `experiment.Experiment`: name, label, views and batch size.
        description: the experiment module's docstring.
        task: what `experiment.task()` opened.
        pace: its length.
        method: of that length.
        programs: of the method, the optimizer and the views.
        stop: says when a signal has come.
        heartbeat: is told of every step.
    """

    workdir: str
    config: RunConfig
    experiment: "Experiment"
    description: str
    task: Task
    pace: Pace
    method: Method
    programs: Programs
    stop: Interruption
    heartbeat: Heartbeat


class Pretrained(NamedTuple):
    """The state at the end, the rows of metrics.jsonl, and the seconds that this part of the run took."""

    state: TrainState
    rows: list[dict[str, Any]]
    seconds: float


def pretrain(run: Run, state: TrainState) -> Pretrained:
    """Train to the recipe's end, from the newest checkpoint in the workdir that verifies, or else from `state`.

    Args:
        run: what to train, and where.
        state: before the first step; donated.

    Raises:
        Interrupted, DivergedError, SaveError: as `experiment.run`.
        CollapsedError: the representation has collapsed, and `on_collapse` is not "warn".
    """
    workdir, config, task, experiment = run.workdir, run.config, run.task, run.experiment
    steps_per_epoch = task.examples // experiment.batch_size
    unit = run.pace.steps_per_epoch
    total_steps = min(run.pace.steps, config.stop_after or run.pace.steps)
    evaluate_every, save_every = (every * unit or total_steps for every in (config.eval_every, config.save_every))
    at_once = dispatch_size(config.steps_per_dispatch, (config.log_every, evaluate_every, save_every, total_steps))
    with run.stop.interruptible():
        checkpoints = checkpoint.open_checkpoints(
            workdir,
            keep=config.keep,
            keep_every=None if config.keep_every is None else config.keep_every * unit,
            best=_best(config.keep_best),
            metadata=directories.facts(config, experiment.name, task.fingerprint),
        )
        restored = checkpoint.restore(checkpoints, state)
    state = state if restored is None else restored
    first_step = int(state.step)
    log = RunLog(workdir, total_steps=total_steps, start_step=first_step, title=experiment.name, headline=task.headline)
    if restored is not None:
        log.say(f"Resuming {workdir} from step {first_step}/{total_steps}.{directories.other_versions(workdir)}")
    began = time.time()
    profile = Profile(workdir, config.profile, first=first_step, last=total_steps)
    # process 0 logs, and all of them have to come to the same decision
    logged = [row for row in read_metrics(f"{workdir}/metrics.jsonl") if row["step"] <= first_step]
    watch = collapse.Watch(logged, run.pace.steps, lambda: _embedding_width(run))
    running = Running(run, checkpoints, log, profile, watch, total_steps, threading.Event())
    # a CPU's runs draw a step's batch ahead of it: fused with that, its figures would differ in their last bits
    batches = task.undrawn if task.undrawn and (at_once > 1 or jax.default_backend() != "cpu") else task.batches

    def train(state: TrainState) -> TrainState:
        shift = int(state.guard.shift)
        return fit(
            state,
            run.programs.step,
            batches(int(state.step), total_steps, shift),
            total_steps=total_steps,
            log_every=config.log_every,
            log=lambda step, metrics: running.write(step, metrics | {"epoch": step / steps_per_epoch}),
            boundary=running.boundary,
            compiling=lambda: run.heartbeat.busy("compiling"),
            discarded=lambda step: running.discarded(step, shift),
            hooks=((evaluate_every, running.monitor), (save_every, running.save)),
            steps_per_dispatch=min(at_once, max(steps_per_epoch, 1)),  # none reaches past the next epoch
        )

    try:
        with running.saving_later():
            if restored is None:
                running.save(0, state)  # so that there is always a checkpoint to restore
            state = running.train(train, state)
        with run.stop.uninterruptible(), run.heartbeat.busy("saving"):
            checkpoint.wait_until_finished(checkpoints)
    finally:
        profile.close()
        checkpoint.close(checkpoints, say=log.say)
        log.close()
    return Pretrained(state, log.rows, time.time() - began)


def _embedding_width(run: Run) -> int | None:
    """Of the method's features `"embedding"`, where it has them and the task says what it is given."""

    def read(params, aux, inputs):
        params, aux = sharding.gather((params, aux))
        return run.method.features(params, aux, sharding.shard(inputs))

    if run.task.inputs is None:
        return None
    state = jax.eval_shape(run.programs.init)
    found = jax.eval_shape(read, state.params, state.aux, run.task.inputs)
    return found["embedding"].shape[-1] if "embedding" in found else None


def _best(wanted: str) -> tuple[str, Literal["max", "min"]] | None:
    name, _, which = wanted.rpartition(":")
    if not wanted:
        return None
    if name and which in ("max", "min"):
        return name, which
    raise BadInputError(f"keep_best={wanted!r}: give NAME:max or NAME:min, such as knn:max.")
