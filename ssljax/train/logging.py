"""What a run says while it runs: metrics.jsonl, TensorBoard events and a progress bar, all on process 0 only."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ssljax.train import buckets


class RunLog:
    """The log of one run in `workdir`; on processes other than 0 every call does nothing.

    Attributes:
        rows: every row so far, earlier parts of a resumed run included, one per step in order.
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
        """Open the log, keeping the rows up to `start_step` of an earlier part of the run.

        The bar shows the latest figures whose names are in `headline`.
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
        here = Path(workdir) if self.mirror is None else self.mirror.here
        here.mkdir(parents=True, exist_ok=True)
        self.path = here / "metrics.jsonl"
        self._rewrite()
        self.events = _event_writer(str(here))
        self.bar = _progress_bar(total_steps, start_step, title) if show_bar else None
        self.began = time.time()

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Add the figures of one step to all three; what is not a number goes to the file alone."""
        if not self.active:
            return
        row = {"step": step, "seconds": round(time.time() - self.began, 2)} | metrics
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] = self.rows[-1] | metrics
        else:
            self.rows.append(row)
        self._append(row)
        if self.events is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self.events.add_scalar(name, value, step)
        if self.bar is not None:
            self.shown |= {name: f"{metrics[name]:.3g}" for name in self.headline if name in metrics}
            self.bar.set_postfix(self.shown, refresh=False)

    def tick(self, step: int) -> None:
        """Move the progress bar to `step`."""
        if self.active and self.bar is not None:
            self.bar.update(step - self.bar.n)

    def say(self, line: str) -> None:
        """Print a line without tearing the progress bar."""
        if self.active and self.bar is not None:
            self.bar.write(line)
        elif self.active:
            print(line, flush=True)

    def keep(self) -> None:
        """Make sure that what was written so far outlives this process, and in a bucket this machine."""
        if self.active and self.mirror is not None:
            self._to_bucket(self.mirror.copy)

    def close(self) -> None:
        """Finish the bar and the files."""
        if not self.active:
            return
        self._rewrite()
        if self.bar is not None:
            self.bar.close()
        if self.events is not None:
            self.events.close()
        if self.mirror is not None:
            self._to_bucket(self.mirror.close)

    def _to_bucket(self, copy: Callable[[], None]) -> None:
        try:
            copy()
        except Exception as error:  # each library has its own; a run does not end for its curves
            self.say(f"The metrics could not be copied to the workdir ({error}); they are in {self.path.parent}.")

    def _append(self, row: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(_line(row))

    def _rewrite(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(map(_line, self.rows)))
        partial.replace(self.path)


def read_metrics(path: Any) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in order of step, rows of one step merged, a torn last line left out."""
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
    # JSON has no NaN: a figure that is not finite becomes null
    lost = {name: None for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return json.dumps(row | lost) + "\n"


def _event_writer(workdir: str) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("tensorboardX is not installed: no TensorBoard events are written.")
        return None
    return SummaryWriter(workdir, flush_secs=30)


def _progress_bar(total: int, start: int, title: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=start, desc=title, unit="step", mininterval=0.5, dynamic_ncols=True)
