"""Train an experiment in its directory: take it up, watch it, save it, stop it when asked, go back when it diverges."""

import json
import time
from typing import Any, Literal, NamedTuple, NoReturn

import jax
from etils import epath

from ssljax import sharding
from ssljax.run import workdir as workdirs
from ssljax.train import checkpoint, guard
from ssljax.train.guard import DivergedError
from ssljax.train.hosts.heartbeat import Beat
from ssljax.train.hosts.interruption import Interrupted, Interruption
from ssljax.train.logging import RunLog
from ssljax.train.loop import dispatch_size, fit
from ssljax.train.profile import Profile
from ssljax.train.state import TrainState
from ssljax.train.step import compile_step
from ssljax.types import BadInputError


class Pretrained(NamedTuple):
    """The state at the end, the rows of metrics.jsonl, and the seconds that this part of the run took."""

    state: TrainState
    rows: list[dict[str, Any]]
    seconds: float


def pretrain(
    workdir: str,
    config: Any,
    experiment: Any,
    task: Any,
    optimizer: Any,
    schedule: Any,
    state: TrainState,
    stop: Interruption,
    beat: Beat,
) -> Pretrained:
    """Train to the recipe's end, from the newest checkpoint in `workdir` that verifies, or else from `state`.

    Args:
        workdir: the run's directory.
        config: an `experiment.RunConfig`.
        experiment: an `experiment.Experiment`.
        task: what its `task()` opened.
        optimizer: its optax optimiser.
        schedule: its learning rate as a function of the step.
        state: before the first step; donated.
        stop: says when a signal has come.
        beat: is told of every step.

    Raises:
        Interrupted, DivergedError, SaveError: as `experiment.run`.
    """
    steps_per_epoch = task.examples // experiment.batch_size
    total_steps, unit = experiment.length(steps_per_epoch)
    total_steps = min(total_steps, config.stop_after or total_steps)
    evaluate_every, save_every = config.eval_every * unit, config.save_every * unit
    at_once = dispatch_size(config.steps_per_dispatch, (config.log_every, evaluate_every, save_every, total_steps))
    with stop.leaving_allowed():
        checkpoints = checkpoint.open_checkpoints(
            workdir,
            keep=config.keep,
            keep_every=None if config.keep_every is None else config.keep_every * unit,
            best=_best(config.keep_best),
            facts=workdirs.facts(config, experiment.name, task.fingerprint),
        )
        restored = checkpoint.restore(checkpoints, state)
    state = state if restored is None else restored
    first_step = int(state.step)
    log = RunLog(workdir, total_steps=total_steps, start_step=first_step, title=experiment.name, headline=task.headline)
    if restored is not None:
        log.say(f"Taking up {workdir} at step {first_step} of {total_steps}.{workdirs.other_versions(workdir)}")
    began = time.time()
    profile = Profile(workdir, config.profile, first=first_step, last=total_steps)
    run = _Running(workdir, task, checkpoints, log, stop, beat, profile)
    if restored is None:
        run.save(0, state)  # so that there is always something to go back to
    step_fn = compile_step(experiment.method, experiment.views, optimizer)
    # a CPU's runs draw a step's batch ahead of it: fused with that, its figures would differ in their last bits
    batches = task.undrawn if task.undrawn and (at_once > 1 or jax.default_backend() != "cpu") else task.batches
    # asked for with its step and read with its figures: later it would wait behind other steps
    rate = jax.jit(lambda step: schedule(step - 1))
    try:
        while True:
            shift = int(state.guard.shift)
            state = fit(
                state,
                step_fn,
                batches(int(state.step), total_steps, shift),
                total_steps=total_steps,
                log_every=config.log_every,
                log=lambda step, metrics: log.write(step, metrics | {"epoch": step / steps_per_epoch}),
                also=lambda state: {"lr": rate(state.step)},
                boundary=run.boundary,
                compiling=lambda: beat.busy("compiling"),
                discarded=lambda step, shift=shift: run.discarded(step, shift),
                hooks=((evaluate_every, run.monitor), (save_every, run.save)),
                steps_per_dispatch=min(at_once, max(steps_per_epoch, 1)),  # none reaches past the next epoch
            )
            if not int(state.guard.tripped):
                break
            state = run.go_back(state)
        with stop.saving(), beat.busy("saving"):
            checkpoint.wait(checkpoints)
    finally:
        profile.close()
        checkpoint.close(checkpoints, say=log.say)
        log.close()
    return Pretrained(state, log.rows, time.time() - began)


def _best(wanted: str) -> tuple[str, Literal["max", "min"]] | None:
    name, _, which = wanted.rpartition(":")
    if not wanted:
        return None
    if name and which == "max":
        return name, "max"
    if name and which == "min":
        return name, "min"
    raise BadInputError(f"keep_best={wanted!r}: give NAME:max or NAME:min, such as knn:max.")


class _Running(NamedTuple):
    """What a run does between its steps."""

    workdir: str
    task: Any
    checkpoints: Any
    log: RunLog
    stop: Interruption
    beat: Beat
    profile: Profile

    def boundary(self, step: int, state: TrainState) -> None:
        """After every dispatch: show its last step, learn of failed saves, and stop if a signal came."""
        self.beat.step(step)
        if self.profile.due(step):
            with self.beat.busy("profiling"):
                self.profile.boundary(step, state)
        self.log.tick(step)
        checkpoint.check(self.checkpoints, say=self.log.say)
        if self.stop.due(step):
            self.leave(step, state)

    def leave(self, step: int, state: TrainState) -> None:
        """Save what there is and raise Interrupted."""
        with self.stop.saving(), self.beat.busy("saving"):
            checkpoint.save(self.checkpoints, state)
            checkpoint.wait(self.checkpoints)
        raise Interrupted(f"Stopped at step {step}, saved; the same command takes it up.")

    def monitor(self, step: int, state: TrainState) -> None:
        """The online evaluation; a signal does not wait for its end."""
        try:
            with self.stop.leaving_allowed(), self.beat.busy("evaluating"):
                self.log.write(step, self.task.monitor(*sharding.gather((state.params, state.aux))))
        except Interrupted:
            self.leave(step, state)

    def save(self, step: int, state: TrainState) -> None:
        """A checkpoint in the background, but none amid discarded updates: that is where a roll-back must not go."""
        if int(state.guard.in_a_row) or int(state.guard.tripped):
            return
        figures = self.log.rows[-1] if self.log.rows and self.log.rows[-1]["step"] == step else {}
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        with self.stop.saving(), self.beat.busy("saving"):
            self.log.keep()
            checkpoint.save(self.checkpoints, state, numbers)

    def discarded(self, step: int, shift: int) -> None:
        """Note an update that was thrown away, with its samples."""
        samples = self.task.samples(step - 1, shift)
        self.log.write(step, {"discarded_samples": samples})
        self.log.say(
            f"Step {step}: loss or gradient is not finite; the update was discarded (samples {_some(samples)})."
        )

    def go_back(self, state: TrainState) -> TrainState:
        """The newest good checkpoint, with the data behind what could not be digested; raises after too often."""
        tripped = int(state.guard.tripped)
        if int(state.guard.rollbacks) >= guard.ROLLBACKS:
            self.give_up(state)
        with self.stop.saving(), self.beat.busy("going back"):
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
            (epath.Path(self.workdir) / "diverged.json").write_text(json.dumps(verdict, indent=2))
        raise DivergedError(
            f"the loss or its gradient stays non-finite, last at steps {_some(steps[-guard.TOLERATED :])}, after "
            f"{verdict['roll_backs']} roll-backs; lower the learning rate or look at the samples named in "
            f"{self.workdir}/diverged.json (the checkpoints are as they were)."
        )


def _some(items: list[Any]) -> str:
    shown = ", ".join(map(str, items[:8]))
    return shown + (f" and {len(items) - 8} more" if len(items) > 8 else "")
