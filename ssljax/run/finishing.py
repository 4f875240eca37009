"""The end of a run: encoder exported, then results, then the report; what fails loses nothing else."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from ssljax import sharding
from ssljax.data.records import summary
from ssljax.run import results as records
from ssljax.run import workdir as directories
from ssljax.run.pretraining import Pretrained, Run
from ssljax.run.results import Results
from ssljax.run.task import Learner
from ssljax.train.hosts import agreement
from ssljax.train.state import TrainState

PARTS = "evaluations.json"  # what each evaluation has found, until all have
REPORT = "report.html"


class UnfinishedError(RuntimeError):
    """Training is done and saved, and something after it failed; the message says what and what to do."""


def has_report(workdir: str) -> bool:
    """Whether the report of a run is written, the last thing that a run does."""
    return (epath.Path(workdir) / REPORT).exists()


def finish(run: Run, pretrained: Pretrained, began: float) -> Results:
    """Export the encoder, evaluate, write results.json and report.html; what an earlier attempt has done is kept.

    Args:
        run: what was trained.
        pretrained: what came of it.
        began: when, in seconds since the epoch.

    Raises:
        UnfinishedError: a part failed. All others are written; the same command repeats only what is missing.
    """
    trained, failures = _learner(run, pretrained.state), _Failures(run.workdir)
    first = jax.process_index() == 0
    with failures.of("the export of the encoder"):
        if first:
            print(run.task.export(trained, run.workdir), flush=True)
    rows = {run.experiment.untrained: _learner(run, run.programs.init()), run.experiment.label: trained}
    found = _evaluated(run, rows, int(pretrained.state.step), failures)
    environment = records.environment(seconds_training=pretrained.seconds, seconds=time.time() - began)
    if first and not failures.named:
        records.write_results(run.workdir, run.config, run.experiment.name, found, environment, pretrained.rows)
    with failures.of("the report"):
        page = run.task.page(trained, pretrained.rows)
        if first:
            records.write_report(run, found, environment, pretrained.rows, page)
    if first:
        records.print_table(found)
    failures.raise_if_any()
    if first:
        (epath.Path(run.workdir) / PARTS).unlink(missing_ok=True)
        print(f"The report is {run.workdir}/{REPORT}")
    return found


def _learner(run: Run, state: TrainState) -> Learner:
    return Learner(run.method, *sharding.gather((state.params, state.aux)))


def _evaluated(run: Run, rows: dict[str, Learner], step: int, failures: "_Failures") -> Results:
    """The results table, the trained model's row last; each part is kept as soon as it is there."""
    parts, path = run.task.evaluations(rows), epath.Path(run.workdir) / PARTS
    kept = _read(path, step)
    done = agreement.broadcast_from_process_0([int(part in kept) for part in parts])
    for (part, evaluate), is_done in zip(parts.items(), done, strict=True):
        if is_done:
            continue
        with failures.of(f"the evaluation {part!r}"):
            kept[part] = evaluate()
            if jax.process_index() == 0:
                records.write(path, json.dumps({"step": step, "parts": kept}, indent=2))
    found: Results = {}
    for part in parts:
        for row, cells in kept.get(part, {}).items():
            found[row] = found.get(row, {}) | cells
    label = run.experiment.label
    return {row: cells for row, cells in found.items() if row != label} | {label: found.get(label, {})}


def _read(path: Any, step: int) -> dict[str, Results]:
    """What an earlier attempt to evaluate the state of `step` has found."""
    if not path.exists():
        return {}
    held = json.loads(path.read_text())
    return held["parts"] if held["step"] == step else {}


class _Failures:
    """What failed after the training, with tracebacks in a file of the run."""

    def __init__(self, workdir: str):
        self.workdir, self.named = workdir, []

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Note an exception in the block instead of raising it."""
        try:
            yield
        except Exception as error:
            self.named.append(f"{what} failed ({summary(error)})")
            print(f"error: {self.named[-1]}", file=sys.stderr, flush=True)
            directories.append_trace(self.workdir, what)

    def raise_if_any(self) -> None:
        if self.named:
            raise UnfinishedError(
                f"{self.workdir}: training is done and saved, but {' and '.join(self.named)}; the traceback is in "
                f"{self.workdir}/{directories.FAILURES}. Run the same command again: it repeats only what is missing."
            )
