"""The options that every experiment has."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The options that every experiment has."""

    workdir: str = ""
    """Directory of the run, local or gs://; empty: runs/NAME. The same command resumes the run."""
    seed: int = 0
    """Seed of the weights, the order of the data and every random draw."""
    devices: int | None = None
    """Number of devices to use; None: all."""
    shard_state: bool = False
    """Shard the parameters, the optimizer state and the momentum encoder over the devices, to save memory."""
    log_every: int = 50
    """Steps between log lines."""
    eval_every: int = 10
    """Epochs between online evaluations, steps where the recipe counts in steps; 0: at the end alone."""
    save_every: int = 10
    """Epochs between checkpoints, steps where the recipe counts in steps; 0: at the end alone."""
    keep: int = 2
    """Number of most recent checkpoints to keep."""
    keep_every: int | None = None
    """Also keep the checkpoints at multiples of this many epochs; steps where the recipe counts in steps."""
    keep_best: str = ""
    """Also keep the best checkpoint by a logged figure: NAME:max or NAME:min, such as knn:max."""
    stop_after: int | None = None
    """Stop after this many steps; the schedules remain those of the whole recipe."""
    allow: tuple[str, ...] = ()
    """Options that may differ from those of the run in the workdir when it is resumed."""
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    """What to do when the representation collapses: warn, save and stop, or go back to an earlier checkpoint and pass
    over the data since."""
    stall_timeout: int = 120
    """Seconds without a step, compilation apart, after which all processes exit and name the stuck one; 0: never."""
    steps_per_dispatch: int | None = None
    """Steps per dispatch (1 to 8) where the data is resident on the device; None: 1 on a CPU, elsewhere as many as
    divide the steps between log lines, evaluations and checkpoints. On a CPU 1 gives the figures of streamed batches to
    the last bit; with more, as programs are fused differently, they agree to 2e-5."""
    profile: int = 0
    """Number of steps to profile, after warm-up, into WORKDIR/profile for TensorBoard and Perfetto; 0: none."""
    compile_cache: str | None = None
    """Directory of the compilation cache; None: in the user's cache directory; empty: no cache."""
    compiler_check: bool = True
    """Check once for each jaxlib and kind of device that compiled code computes what it should."""
    record: bool = False
    """Append the result to experiments/results/NAME.json."""
