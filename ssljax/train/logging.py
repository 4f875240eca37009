"""Logging of a run on process 0: metrics.jsonl, TensorBoard events and a progress bar, or lines in a file."""

import bisect
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ssljax.train import buckets

QUIET = 30  # seconds between two lines of progress where there is no terminal


class RunLog:
    """Logs the metrics of a run in `workdir`; on processes other than 0 every call is a no-op.

    Attributes:
        rows: all rows so far, one per step in order, including those logged before a resume.
    """

    def __init__(
        self,
        workdir: str,
        *,
        total_steps: int,
        start_step: int,
        title: str,
        headline: Sequence[str] = ("loss",),
        show_bar: bool = True,
    ):
        """Open the log; rows of the resumed run up to `start_step` are kept.

        The progress bar shows the latest metrics whose names are in `headline`.
        """
        from etils import epath

        self.rows: list[dict[str, Any]] = []
        self.headline, self.shown = headline, {}
        self.active = jax.process_index() == 0
        if not self.active:
            return
        directory = epath.Path(workdir)
        self.rows = [row for row in read_metrics(directory / "metrics.jsonl") if row["step"] <= start_step]
        # object stores cannot append
        self.mirror = None if buckets.is_local(directory) else buckets.Mirror(directory)
        folder = Path(workdir) if self.mirror is None else self.mirror.local
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        self._rewrite()
        self.events: Any = None  # from the first row on: the first step need not wait for the import
        self.bar = _progress_bar(total_steps, start_step, title) if show_bar else None
        self.began = time.time()

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Log the metrics of one step, of an earlier one after a rollback; numbers only go to TensorBoard as well."""
        if not self.active:
            return
        row = {"step": step, "seconds": round(time.time() - self.began, 2)} | metrics
        at = self._place(step)
        if self.row(step):
            self.rows[at] = self.rows[at] | metrics
        else:
            self.rows.insert(at, row)
        self._append(row)
        if self.events is None:
            self.events = _event_writer(str(self.path.parent))
        for name, value in metrics.items():
            if self.events and isinstance(value, int | float):
                self.events.add_scalar(name, value, step)
        if self.bar is not None:
            self.shown |= {name: f"{metrics[name]:.3g}" for name in self.headline if name in metrics}
            self.bar.set_postfix(self.shown, refresh=False)

    def row(self, step: int) -> dict[str, Any]:
        """What is logged of one step; empty if nothing is."""
        at = self._place(step)
        return self.rows[at] if at < len(self.rows) and self.rows[at]["step"] == step else {}

    def update_progress(self, step: int) -> None:
        """Advance the progress bar to `step`."""
        if self.active and self.bar is not None:
            self.bar.update(step - self.bar.n)

    def say(self, line: str) -> None:
        """Print a line without breaking the progress bar."""
        if self.active and self.bar is not None:
            self.bar.write(line)
        elif self.active:
            print(line, flush=True)

    def flush(self) -> None:
        """Copy what was written so far to the workdir, if that is in a bucket."""
        if self.active and self.mirror is not None:
            self._to_bucket(self.mirror.sync)

    def close(self) -> None:
        """Close the progress bar and the files."""
        if not self.active:
            return
        self._rewrite()
        if self.bar is not None:
            self.bar.close()
        if self.events:
            self.events.close()
        if self.mirror is not None:
            self._to_bucket(self.mirror.close)

    def _to_bucket(self, copy: Callable[[], None]) -> None:
        try:
            copy()
        except Exception as error:  # each library has its own; a run need not fail for its curves
            self.say(f"The metrics could not be copied to the workdir ({error}); they are in {self.path.parent}.")

    def _place(self, step: int) -> int:
        return bisect.bisect_left(self.rows, step, key=lambda row: row["step"])

    def _append(self, row: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(_line(row))

    def _rewrite(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(map(_line, self.rows)))
        partial.replace(self.path)


def read_metrics(path: Any) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order of step; rows of one step are merged, invalid lines skipped."""
    from etils import epath

    path, merged = epath.Path(path), {}
    if not path.exists():
        return []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        merged[row["step"]] = merged.get(row["step"], {}) | row
    return [merged[step] for step in sorted(merged)]


def _line(row: dict[str, Any]) -> str:
    # JSON has no NaN: values that are not finite become null
    nulls = {name: None for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return json.dumps(row | nulls) + "\n"


def _event_writer(workdir: str) -> Any:
    """A TensorBoard writer; False where its library is missing."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("tensorboardX is not installed: no TensorBoard events are written.")
        return False
    return SummaryWriter(workdir, flush_secs=30)


class ProgressLines:
    """Progress where there is no terminal: a line every `QUIET` seconds at most, and one at the end; for a file.

    Has what `RunLog` uses of tqdm.

    Attributes:
        n: steps made.
    """

    def __init__(self, total: int, start: int, title: str, clock: Callable[[], float] = time.monotonic):
        """Progress from step `start` to `total`; nothing is printed yet."""
        self.n, self.total, self.title, self.clock = start, total, title, clock
        self.shown: dict[str, str] = {}
        self.said = start, clock()  # step and time of the last line

    def update(self, steps: int) -> None:
        """Advance by so many steps; prints a line if the last one is long ago."""
        self.n += steps
        if self.clock() - self.said[1] >= QUIET:
            self._print()

    def set_postfix(self, shown: dict[str, str], refresh: bool = False) -> None:
        """Figures to show from now on."""
        del refresh
        self.shown = dict(shown)

    def write(self, line: str) -> None:
        """Print any other line."""
        print(line, flush=True)

    def close(self) -> None:
        """Print how far it came, unless the last line says so."""
        if self.n != self.said[0]:
            self._print()

    def _print(self) -> None:
        now = self.clock()
        figures = "".join(f", {name} {value}" for name, value in self.shown.items())
        rate = (self.n - self.said[0]) / max(now - self.said[1], 1e-9)
        print(f"{self.title}: step {self.n}/{self.total}{figures}, {rate:.3g} steps/s", file=sys.stderr, flush=True)
        self.said = self.n, now


def _progress_bar(total: int, start: int, title: str) -> Any:
    if not sys.stderr.isatty():
        return ProgressLines(total, start, title)
    from tqdm import tqdm

    return tqdm(total=total, initial=start, desc=title, unit="step", mininterval=0.5, dynamic_ncols=True)
