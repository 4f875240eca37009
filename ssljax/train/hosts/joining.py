"""The processes of a run find each other, before any device is touched."""

import contextlib
import os
from functools import partial

import jax
from jax._src import cloud_tpu_init  # jax has no public query that leaves the chips free


def start_hosts(heartbeat_timeout: int = 100) -> None:
    """Join the processes of a multi-host run, once, before any device is touched.

    jax detects the processes on a TPU VM (from its metadata server, in a pod from Kubernetes' environment) and in a
    Slurm job of several tasks; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. A run on
    one host needs nothing.

    Args:
        heartbeat_timeout: seconds without a heartbeat from a process after which jax ends the run.
    """
    if jax.distributed.is_initialized():
        return
    join = partial(jax.distributed.initialize, heartbeat_timeout_seconds=heartbeat_timeout)
    env = os.environ
    if "JAX_COORDINATOR_ADDRESS" in env:
        join(env["JAX_COORDINATOR_ADDRESS"], int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"]))
    elif int(env.get("SLURM_NTASKS", "1")) > 1:
        join()
    elif _is_on_tpu():
        # for a TPU outside a slice, such as a notebook's, jax finds no coordinator
        with contextlib.suppress(ValueError):
            join()


def _is_on_tpu() -> bool:
    """Whether this host has TPU chips and the run is to use them; asked without touching them."""
    wanted = _platforms()
    return cloud_tpu_init.running_in_cloud_tpu_vm and (not wanted or "tpu" in wanted.split(","))


def _platforms() -> str | None:
    """The value of JAX_PLATFORMS, or of the jax option of that name."""
    return jax.config.jax_platforms  # type: ignore[attr-defined]
