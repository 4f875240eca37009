"""Where arrays live: one mesh axis `data`, batches sharded over it, state replicated.

Everything here also works without a mesh, so that the same code runs on one device untouched.
"""

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import cloud_tpu_init  # jax has no public way to ask for chips before it takes them
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssljax.types import Array, BadInputError, PyTree

DATA = "data"


def make_mesh(devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh of one Explicit axis, `data`, over the first `devices` devices of all hosts (default: all).

    Raises:
        BadInputError: more devices are asked for than there are.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise BadInputError(f"devices={count}: this machine has {len(available)}; ask for 1 to {len(available)}.")
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Explicit,), devices=available[:count])


@contextlib.contextmanager
def use_mesh(mesh: jax.sharding.Mesh | None) -> Iterator[None]:
    """Make `mesh` the one that `shard`, `gather` and jit see; `None` changes nothing."""
    if mesh is None:
        yield
    else:
        with jax.set_mesh(mesh):
            yield


def data_devices() -> int:
    """How many devices a batch is split over under the present mesh (1 without one)."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(DATA, 1)


def has_mesh() -> bool:
    """Whether a mesh with a `data` axis is in use."""
    return DATA in dict(jax.sharding.get_abstract_mesh().shape)


def platform() -> str:
    """Of the present mesh's devices, which may only be described: "cpu", "gpu" or "tpu"; jax's own without a mesh."""
    return jax.sharding.get_mesh().devices.flat[0].platform if has_mesh() else jax.default_backend()


def shard(x: PyTree) -> PyTree:
    """Split the leading axis of every leaf over `data` (inside or outside jit); the identity without a mesh."""
    return jax.tree.map(lambda leaf: jax.reshard(leaf, P(DATA)), x) if has_mesh() else x


def gather(x: PyTree) -> PyTree:
    """All devices' rows on every device, in order; differentiable; the identity without a mesh."""
    return jax.tree.map(lambda leaf: jax.reshard(leaf, P()), x) if has_mesh() else x


def take_rows(x: Array, indices: Array) -> Array:
    """Rows `indices` of `x` from wherever they are, split over `data` again.

    Args:
        x: [B, ...], sharded or not.
        indices: int[N], the same on every device.

    Returns:
        [N, ...]. Under a mesh this is an all-gather followed by a local selection.
    """
    if not has_mesh():
        return x[indices]
    return gather(x).at[indices].get(out_sharding=P(DATA, *(None,) * (x.ndim - 1)))


def data_sharding() -> NamedSharding | None:
    """The sharding of a batch under the present mesh; None without one."""
    return NamedSharding(jax.sharding.get_mesh(), P(DATA)) if has_mesh() else None


def replicated() -> P | None:
    """The state's layout for jit's `out_shardings`, everything on every device; None without a mesh."""
    return P() if has_mesh() else None


def replicated_sharding() -> NamedSharding | None:
    """The sharding of the state under the present mesh, for arrays made outside jit; None without one."""
    return NamedSharding(jax.sharding.get_mesh(), P()) if has_mesh() else None


def shard_batch(batch: dict[str, np.ndarray]) -> dict[str, Array]:
    """This process's rows of a global batch -> the global batch, sharded over `data`.

    Args:
        batch: arrays [B / number of processes, ...].

    Returns:
        The same names with global arrays [B, ...].
    """
    sharding = data_sharding()
    if sharding is None:
        return jax.tree.map(jax.numpy.asarray, batch)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def start_hosts(heartbeat_timeout: int = 100) -> None:
    """Join the processes of a multi-host run, once, before any device is touched.

    On a TPU VM (its metadata server knows the slice's other hosts, Kubernetes' environment does in its pods) and in a
    Slurm job of several tasks jax finds them; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. A run on one host needs nothing.

    Args:
        heartbeat_timeout: seconds after which jax ends everything when it does not hear of a process.
    """
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_timeout)
    elif _is_on_tpu():
        # a TPU that belongs to no slice, such as a notebook's, has no one to ask
        with contextlib.suppress(ValueError):
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_timeout)


def _is_on_tpu() -> bool:
    """Whether this host has TPU chips and the run is to use them; asked without touching them."""
    wanted = _platforms()
    return cloud_tpu_init.running_in_cloud_tpu_vm and (not wanted or "tpu" in wanted.split(","))


def _platforms() -> str | None:
    """Those that jax has been told to use, as JAX_PLATFORMS names them."""
    return jax.config.jax_platforms  # type: ignore[attr-defined]
