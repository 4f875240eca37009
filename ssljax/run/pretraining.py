"""Train an experiment in its directory: resume, monitor, save, stop when asked, roll back when it diverges."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import jax
from etils import epath

from ssljax import sharding
from ssljax.data.records import summary
from ssljax.optim import Pace
from ssljax.run import workdir as directories
from ssljax.run.config import RunConfig
from ssljax.run.programs import Programs
from ssljax.run.task import Learner, Task
from ssljax.train import checkpoint, guard
from ssljax.train.guard import DivergedError
from ssljax.train.hosts.heartbeat import Heartbeat
from ssljax.train.hosts.interruption import Interrupted, Interruption
from ssljax.train.logging import RunLog
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
    """
    workdir, config, task, experiment = run.workdir, run.config, run.task, run.experiment
    steps_per_epoch = task.examples // experiment.batch_size
    unit = run.pace.steps_per_epoch
    total_steps = min(run.pace.steps, config.stop_after or run.pace.steps)
    evaluate_every, save_every = config.eval_every * unit, config.save_every * unit
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
    running = _Running(run, checkpoints, log, profile, threading.Event())
    # a CPU's runs draw a step's batch ahead of it: fused with that, its figures would differ in their last bits
    batches = task.undrawn if task.undrawn and (at_once > 1 or jax.default_backend() != "cpu") else task.batches

    def train(state: TrainState, shift: int) -> TrainState:
        return fit(
            state,
            run.programs.step,
            batches(int(state.step), total_steps, shift),
            total_steps=total_steps,
            log_every=config.log_every,
            log=lambda step, metrics: log.write(step, metrics | {"epoch": step / steps_per_epoch}),
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
            state = train(state, int(state.guard.shift))
        while int(state.guard.tripped):
            state = running.roll_back(state)
            state = train(state, int(state.guard.shift))
        with run.stop.uninterruptible(), run.heartbeat.busy("saving"):
            checkpoint.wait_until_finished(checkpoints)
    finally:
        profile.close()
        checkpoint.close(checkpoints, say=log.say)
        log.close()
    return Pretrained(state, log.rows, time.time() - began)


def _best(wanted: str) -> tuple[str, Literal["max", "min"]] | None:
    name, _, which = wanted.rpartition(":")
    if not wanted:
        return None
    if name and which in ("max", "min"):
        return name, which
    raise BadInputError(f"keep_best={wanted!r}: give NAME:max or NAME:min, such as knn:max.")


class _Running(NamedTuple):
    """What a run does between its steps."""

    run: Run
    checkpoints: checkpoint.CheckpointManager
    log: RunLog
    profile: Profile
    dispatched: threading.Event

    @contextlib.contextmanager
    def saving_later(self) -> Iterator[None]:
        """The saving thread, which imports orbax for a second, waits until the first step is loaded and dispatched."""
        self.checkpoints.executor.submit(self.dispatched.wait)
        try:
            yield
        finally:
            self.dispatched.set()

    def boundary(self, step: int, state: TrainState) -> None:
        """After every dispatch: show its last step, learn of failed saves, and stop if a signal came."""
        self.dispatched.set()
        self.run.heartbeat.step(step)
        if self.profile.due(step):
            with self.run.heartbeat.busy("profiling"):
                self.profile.boundary(step, state)
        self.log.update_progress(step)
        checkpoint.check_for_errors(self.checkpoints, say=self.log.say)
        if self.run.stop.should_stop(step):
            self.stop_now(step, state)

    def stop_now(self, step: int, state: TrainState) -> None:
        """Save what there is and raise Interrupted."""
        with self.run.stop.uninterruptible(), self.run.heartbeat.busy("saving"):
            checkpoint.save(self.checkpoints, state)
            checkpoint.wait_until_finished(self.checkpoints)
        raise Interrupted(self.run.stop.saved_message(step))

    def monitor(self, step: int, state: TrainState) -> None:
        """The online evaluation; a signal does not wait for its end, and training continues where it fails."""
        try:
            with self.run.stop.interruptible(), self.run.heartbeat.busy("evaluating"):
                learner = Learner(self.run.method, *sharding.gather((state.params, state.aux)))
                self.log.write(step, self.run.task.monitor(learner))
        except Interrupted:
            self.stop_now(step, state)
        except Exception as error:
            failed = f"Step {step}: the online evaluation failed ({summary(error)})"
            directories.append_trace(self.run.workdir, failed)
            self.log.say(f"{failed}; the traceback is in {self.run.workdir}/failures.txt, and training continues.")

    def save(self, step: int, state: TrainState) -> None:
        """A checkpoint in the background, but none amid discarded updates: that is where a roll-back must not go."""
        if int(state.guard.in_a_row) or int(state.guard.tripped):
            return
        figures = self.log.rows[-1] if self.log.rows and self.log.rows[-1]["step"] == step else {}
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        with self.run.stop.uninterruptible(), self.run.heartbeat.busy("saving"):
            self.log.flush()
            checkpoint.save(self.checkpoints, state, numbers)

    def discarded(self, step: int, shift: int) -> None:
        """Note a discarded update, with its samples."""
        samples = self.run.task.samples(step - 1, shift)
        self.log.write(step, {"discarded_samples": samples})
        self.log.say(
            f"Step {step}: loss, gradient or update is not finite; the update was discarded (samples {_some(samples)})."
        )

    def roll_back(self, state: TrainState) -> TrainState:
        """Restore the newest good checkpoint and skip the data in between; raises after too many times."""
        tripped = int(state.guard.tripped)
        if int(state.guard.rollbacks) >= guard.ROLLBACKS:
            self.give_up(state)
        with self.run.stop.uninterruptible(), self.run.heartbeat.busy("restoring"):
            restored = checkpoint.restore(self.checkpoints, state, say=self.log.say)
        if restored is None:
            self.give_up(state)
        restored = guard.rolled_back(restored, state.guard)
        self.log.say(
            f"Step {tripped}: {guard.TOLERATED} updates in a row were not finite; "
            f"back to the checkpoint of step {int(restored.step)}, past the data in between."
        )
        self.log.write(int(restored.step), {"rolled_back_from": tripped})
        return restored

    def give_up(self, state: TrainState) -> NoReturn:
        """Leave diverged.json and raise DivergedError."""
        found = [row for row in self.log.rows if "discarded_samples" in row or "rolled_back_from" in row]
        steps = [row["step"] for row in found if "discarded_samples" in row]
        verdict = {"discarded_updates": int(state.guard.total), "roll_backs": int(state.guard.rollbacks), "rows": found}
        if jax.process_index() == 0:
            (epath.Path(self.run.workdir) / "diverged.json").write_text(json.dumps(verdict, indent=2))
        raise DivergedError(
            f"loss, gradient or update stay non-finite, last at steps {_some(steps[-guard.TOLERATED :])}, after "
            f"{verdict['roll_backs']} rollbacks; lower the learning rate or look at the samples named in "
            f"{self.run.workdir}/diverged.json (the checkpoints are as they were)."
        )


def _some(items: list[Any]) -> str:
    shown = ", ".join(map(str, items[:8]))
    return shown + (f" and {len(items) - 8} more" if len(items) > 8 else "")
