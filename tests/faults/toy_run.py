"""A run in miniature, for the tests of signals, locks and stuck processes: counts steps, saves its count in a file.

`python -m tests.faults.toy_run MODE WORKDIR`; with JAX_COORDINATOR_ADDRESS set it is one of several processes, whose
steps wait for each other. It prints what it is about to do, so that a test knows when to send a signal.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

from ssljax.train.hosts import exits, interruption, joining, lock, processes
from ssljax.train.hosts import heartbeat as heartbeats
from ssljax.types import BadInputError

GRACE = float(os.environ.get("TOY_GRACE", "20"))
STALL = float(os.environ.get("TOY_STALL", "0"))
STEPS = 100_000


def say(*words):
    print(*words, flush=True)


def save(workdir, step):
    partial = Path(workdir, f"partial-{os.getpid()}")
    partial.write_text(json.dumps(step))
    partial.rename(Path(workdir, f"saved-{os.environ.get('JAX_PROCESS_ID', '0')}"))


def joint_step():
    """A function that returns when all processes have called it."""
    if "JAX_COORDINATOR_ADDRESS" not in os.environ:
        return lambda: None
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    layout = NamedSharding(mesh, P("data"))
    ones = jax.make_array_from_process_local_data(layout, np.ones(jax.local_device_count(), np.float32))
    total = jax.jit(lambda x: x.sum())
    return lambda: float(total(ones))


def train(workdir, mode, stop, heartbeat):
    say("set-up")
    with heartbeat.busy("starting"):
        if mode == "slow set-up":
            time.sleep(1.5)
        step_fn = joint_step()
    for step in range(1, STEPS):
        step_fn()
        if step == 1:
            say("training")
        heartbeat.step(step)
        time.sleep(0.02)
        if mode == "stuck source" and step == 20 and os.environ.get("JAX_PROCESS_ID", "1") == "1":
            wait_for_the_disk()
        if stop.should_stop(step):
            with stop.uninterruptible(), heartbeat.busy("saving"):
                save(workdir, step)
            raise interruption.Interrupted(stop.saved_message(step))
        if mode == "compile" and step == 5:
            with heartbeat.busy("compiling"):
                say("compiling")
                wait_in_c()
        if mode == "save" and step == 5:
            with stop.uninterruptible():
                say("saving")
                time.sleep(1)
                save(workdir, step)
        if mode == "endless save" and step == 5:
            save(workdir, step)
            stop.record_saved(step)
            with stop.uninterruptible(), heartbeat.busy("saving"):
                say("saving")
                time.sleep(60)
        if mode == "evaluate" and step == 5:
            try:
                with stop.interruptible(), heartbeat.busy("evaluating"):
                    say("evaluating")
                    time.sleep(60)
            except interruption.Interrupted:
                save(workdir, step)
                raise interruption.Interrupted(stop.saved_message(step)) from None
        if mode == "last evaluation" and step == 5:
            save(workdir, step)
            stop.record_saved(step)
            with stop.interruptible(), heartbeat.busy("evaluating"):
                say("evaluating")
                time.sleep(60)
        if mode == "own error" and step == 20:
            raise ValueError("an error of its own")


def wait_in_c():
    # as XLA's compiler does: not interpreting Python, not holding its lock, not minding signals
    mutex = ctypes.create_string_buffer(128)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def wait_for_the_disk():
    time.sleep(1000)


def main(mode, workdir):
    if "TOY_MACHINE" in os.environ:
        processes.this_machine = lambda: os.environ["TOY_MACHINE"]
    with interruption.watch(GRACE):
        if "JAX_COORDINATOR_ADDRESS" in os.environ:
            joining.start_hosts()
        with interruption.watch() as stop, heartbeats.watch(workdir, STALL) as heartbeat:
            if mode == "lock of a bucket":
                lock.is_local, lock.SETTLE, lock.REFRESH = (lambda directory: False), 0.0, 0.1
            if mode.startswith("lock"):
                with lock.hold(workdir):
                    say("holding")
                    time.sleep(60)
            train(workdir, mode, stop, heartbeat)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except interruption.Interrupted as stopped:
        exits.exit_interrupted(str(stopped))
