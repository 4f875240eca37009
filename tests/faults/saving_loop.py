"""Run by test_saving.py: for each workdir on standard input a process that saves step after step, to be killed.

It is forked before jax has begun anything, so that a kill costs no new start of Python.
"""

import os
import sys

from ssljax.train import checkpoint
from tests.train import states


def state_at(step):
    """What is saved as `step`."""
    return states.every_kind(step, width=40_000)


def save_steps(workdir):
    """Save 1, 2, ... for ever; `progress` has a line for each that is known to be committed."""
    with open(os.path.join(workdir, "progress"), "w", buffering=1) as progress:
        progress.write(f"{os.getpid()}\n")
        checkpoints = checkpoint.open_checkpoints(workdir, keep=3)
        found = checkpoint.restore(checkpoints, state_at(0))
        step = 0 if found is None else int(found.step)
        while True:
            step += 1
            checkpoint.save(checkpoints, state_at(step))
            if step % 4 == 0:
                checkpoint.wait_until_finished(checkpoints)
                progress.write(f"{step}\n")


if __name__ == "__main__":
    for line in sys.stdin:
        if os.fork() == 0:
            save_steps(line.strip())
        os.wait()
        print("killed", flush=True)
