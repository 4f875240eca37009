"""A profiler trace of a few steps, for TensorBoard's profile plugin and Perfetto."""

import shutil
import tempfile
from typing import Any

import jax
from etils import epath

from ssljax.train import buckets

WARM_UP = 5  # steps after the start or the resume that are not traced: compilation, and the first batches


class Profile:
    """Traces some steps of a run after a warm-up; with `steps=0` none.

    Open the trace with `tensorboard --logdir workdir/profile`, or its `perfetto_trace.json.gz` at ui.perfetto.dev.
    Process 0 traces its own devices.
    """

    def __init__(self, workdir: str, steps: int, *, first: int, last: int):
        """Trace `steps` of the steps from `first` to `last`, after the warm-up if there are enough."""
        self.directory = epath.Path(workdir) / "profile"
        self.steps = min(steps, last - first) if jax.process_index() == 0 else 0
        self.begin = max(min(first + WARM_UP, last - steps), first)
        self.running = False
        if self.due(first):
            self.boundary(first, None)

    def due(self, step: int) -> bool:
        """Whether to call `boundary` after `step`."""
        return self.steps > 0 and step >= self.begin + self.running * self.steps

    def boundary(self, step: int, state: Any) -> None:
        """Start the trace, or wait until the device has computed `state` and stop it."""
        jax.block_until_ready(state)
        if self.running:
            self.close()
        else:
            # jax writes Perfetto's file to local directories only
            self.written = self.directory if buckets.is_local(self.directory) else tempfile.mkdtemp(prefix="profile-")
            jax.profiler.start_trace(str(self.written), create_perfetto_trace=True)
            self.begin, self.running = step, True

    def close(self) -> None:
        """Stop the trace, if one is running, and write it."""
        if self.running:
            self.running, self.steps = False, 0
            jax.profiler.stop_trace()
            if not buckets.is_local(self.directory):
                buckets.copy_tree(epath.Path(self.written), self.directory)
                shutil.rmtree(self.written)
