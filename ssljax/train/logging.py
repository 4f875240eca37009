"""What a run says while it runs: metrics.jsonl, TensorBoard events and a progress bar, all on process 0 only."""

import json
import math
import time
from typing import Any

import jax


class RunLog:
    """The log of one run in `workdir`; on processes other than 0 every call does nothing.

    Attributes:
        rows: every row so far, earlier parts of a resumed run included, one per step in order.
    """

    def __init__(self, workdir: str, *, total_steps: int, start_step: int, title: str, show_bar: bool = True):
        """Open the log, keeping the rows up to `start_step` of an earlier part of the run."""
        from etils import epath

        self.rows: list[dict[str, float]] = []
        self.active = jax.process_index() == 0
        if not self.active:
            return
        self.path = epath.Path(workdir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in read_metrics(self.path) if row["step"] <= start_step]
        self._rewrite()
        self.events = _event_writer(workdir)
        self.bar = _progress_bar(total_steps, start_step, title) if show_bar else None
        self.began = time.time()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add the figures of one step to all three."""
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
                self.events.add_scalar(name, value, step)
        if self.bar is not None:
            shown = {name: metrics[name] for name in ("loss", "pretext_top1", "knn") if name in metrics}
            self.shown = getattr(self, "shown", {}) | {name: f"{value:.3g}" for name, value in shown.items()}
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

    def close(self) -> None:
        """Finish the bar and the files."""
        if not self.active:
            return
        self._rewrite()
        if self.bar is not None:
            self.bar.close()
        if self.events is not None:
            self.events.close()

    def _append(self, row: dict[str, float]) -> None:
        if "://" not in str(self.path):  # object stores cannot append; there the file is written at the end
            with open(self.path, "a") as file:
                file.write(_line(row))

    def _rewrite(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(map(_line, self.rows)))
        partial.replace(self.path)


def read_metrics(path: Any) -> list[dict[str, float]]:
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


def _line(row: dict[str, float]) -> str:
    # JSON has no NaN: a figure that is not finite becomes null
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(finite) + "\n"


def _event_writer(workdir: str) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("tensorboardX is not installed: no TensorBoard events are written.")
        return None
    return SummaryWriter(str(workdir), flush_secs=30)


def _progress_bar(total: int, start: int, title: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=start, desc=title, unit="step", mininterval=0.5, dynamic_ncols=True)
