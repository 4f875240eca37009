"""What a run does between its steps: logs, evaluates, saves, stops when asked, goes back when it has to."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
from etils import epath

from ssljax import sharding
from ssljax.data.records import summary
from ssljax.run import workdir as directories
from ssljax.run.task import Learner
from ssljax.train import checkpoint, collapse, guard
from ssljax.train.collapse import CollapsedError
from ssljax.train.guard import DivergedError
from ssljax.train.hosts import agreement
from ssljax.train.hosts.interruption import Interrupted
from ssljax.train.logging import RunLog
from ssljax.train.profile import Profile
from ssljax.train.saving import retention
from ssljax.train.state import TrainState

if TYPE_CHECKING:
    from ssljax.run.pretraining import Run


class Running(NamedTuple):
    """What a run does between its steps.

    Attributes:
        run: the run.
        checkpoints: its checkpoints.
        log: its metrics.
        profile: its profile.
        watch: looks for a collapse in the metrics.
        total_steps: of the run.
        dispatched: set once the first step is.
    """

    run: "Run"
    checkpoints: checkpoint.CheckpointManager
    log: RunLog
    profile: Profile
    watch: collapse.Watch
    total_steps: int
    dispatched: threading.Event

    def train(self, fit: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
        """`fit` until the end, back to a checkpoint as often as updates are not finite or the run collapses."""
        while True:
            try:
                state = fit(state)
                if not int(state.guard.tripped):
                    self.act_on_collapse(state)
                    return state
            except _GoBackError as back:
                state = self.restore_uncollapsed(back.state, back.alarm)
            else:
                state = self.roll_back(state)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Log a row, and say so if it is one too many of a collapse."""
        self.log.write(step, metrics)
        alarm = self.watch.look({"step": step} | metrics)
        if alarm is not None:
            self.log.write(step, {"collapsed": alarm.reason()})
            act = "" if self.run.config.on_collapse != "warn" else " Training continues (--on-collapse warn)."
            self.log.say(f"{alarm.sentence()}{act}")

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
        self.act_on_collapse(state)

    def act_on_collapse(self, state: TrainState) -> None:
        """Stop or go back, if the run has collapsed and `on_collapse` says so."""
        alarm, wanted = self.watch.alarm, self.run.config.on_collapse
        if alarm is None or wanted == "warn":
            return
        if wanted == "rollback":
            raise _GoBackError(state, alarm)
        self.save_now(state)
        raise CollapsedError(
            f"the representation has collapsed: {alarm.reason()}; the state of step {int(state.step)} is saved: start "
            "again in another --workdir with a lower learning rate (or check momentum, predictor, temperature and "
            "BatchNorm), or resume with --on-collapse warn."
        )

    def stop_now(self, step: int, state: TrainState) -> None:
        """Save what there is and raise Interrupted."""
        self.save_now(state)
        raise Interrupted(self.run.stop.saved_message(step))

    def save_now(self, state: TrainState) -> None:
        """A checkpoint, and wait until it is written."""
        with self.run.stop.uninterruptible(), self.run.heartbeat.busy("saving"):
            checkpoint.save(self.checkpoints, state)
            checkpoint.wait_until_finished(self.checkpoints)

    def monitor(self, step: int, state: TrainState) -> None:
        """The online evaluation; a signal does not wait for its end, and training continues where it fails."""
        try:
            with self.run.stop.interruptible(), self.run.heartbeat.busy("evaluating"):
                learner = Learner(self.run.method, *sharding.gather((state.params, state.aux)))
                self.write(step, self.run.task.monitor(learner))
        except Interrupted:
            self.stop_now(step, state)
        except Exception as error:
            failed = f"Step {step}: the online evaluation failed ({summary(error)})"
            directories.append_trace(self.run.workdir, failed)
            self.log.say(f"{failed}; the traceback is in {self.run.workdir}/failures.txt, and training continues.")

    def save(self, step: int, state: TrainState) -> None:
        """A checkpoint in the background, but none amid discarded updates: that is where a roll-back must not go.

        Nor where a figure is low already that may become a collapse to go back from, except the last.
        """
        going_back = self.run.config.on_collapse == "rollback" and self.watch.is_low and step < self.total_steps
        if int(state.guard.in_a_row) or int(state.guard.tripped) or going_back:
            return
        figures = self.log.row(step)
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

    def restore_uncollapsed(self, state: TrainState, alarm: collapse.Alarm) -> TrainState:
        """Restore the newest checkpoint from before the alarm's first low row, and skip the data in between.

        Later checkpoints are removed: a resumed run must not start from them.
        """
        step, times = int(state.step), int(state.guard.rollbacks)
        with self.run.stop.uninterruptible(), self.run.heartbeat.busy("restoring"):
            checkpoint.wait_until_finished(self.checkpoints)
            steps = agreement.broadcast_from_process_0(checkpoint.all_steps(self.checkpoints))
            if times >= guard.ROLLBACKS or min(steps, default=step) >= alarm.since:
                tried = f"after {times} rollbacks" if times else "and no earlier checkpoint is left (see --keep)"
                raise CollapsedError(
                    f"the representation has collapsed: {alarm.reason()}, {tried}; lower the learning rate or check "
                    "momentum, predictor, temperature and BatchNorm, and start again in another --workdir."
                )
            if jax.process_index() == 0:
                for later in (later for later in steps if later >= alarm.since):
                    retention.remove(self.checkpoints.directory / str(later))
            agreement.broadcast_from_process_0([step])  # nobody reads before they are removed
            restored = checkpoint.restore(self.checkpoints, state, say=self.log.say)
        if restored is None:
            raise CollapsedError(f"the representation has collapsed: {alarm.reason()}, and no checkpoint is left.")
        restored = guard.rolled_back(restored, dataclasses.replace(state.guard, tripped=state.step))
        self.log.say(f"Step {step}: back to the checkpoint of step {int(restored.step)}, past the data in between.")
        self.log.write(int(restored.step), {"rolled_back_from": step})
        self.watch.forget(after=int(restored.step))
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


class _GoBackError(Exception):
    """The run has collapsed and is to go back to a checkpoint."""

    def __init__(self, state: TrainState, alarm: collapse.Alarm):
        super().__init__(alarm.reason())
        self.state, self.alarm = state, alarm


def _some(items: list[Any]) -> str:
    shown = ", ".join(map(str, items[:8]))
    return shown + (f" and {len(items) - 8} more" if len(items) > 8 else "")
