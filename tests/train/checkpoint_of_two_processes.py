"""Run by test_checkpoint.py, once for each process: save a state that lies on both, damage it, restore it."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.train import checkpoint
from ssljax.train.hosts import joining
from ssljax.train.saving import snapshot
from tests.train import states


def on_both(state):
    """The state on all devices of both processes, its queue split over them."""
    mesh = jax.sharding.get_mesh()

    def place(array, spec):
        layout = jax.sharding.NamedSharding(mesh, spec)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, layout, lambda index: host[index])

    arrays = snapshot.flatten(state)
    placed = {name: place(array, P("data") if name == "aux/queue" else P()) for name, array in arrays.items()}
    return snapshot.unflatten(placed, state)


def main(workdir):
    """Print what this process has seen."""
    said = []
    checkpoints = checkpoint.open_checkpoints(workdir, keep=3)
    like = on_both(states.every_kind())
    assert checkpoint.restore(checkpoints, like) is None
    for step in (1, 2):
        state = on_both(states.every_kind(step))
        checkpoint.save(checkpoints, state)
        checkpoint.save(checkpoints, state)
    checkpoint.wait_until_finished(checkpoints)
    assert equal(checkpoint.restore(checkpoints, like), on_both(states.every_kind(2)))
    if jax.process_index() == 0:
        victim = max((checkpoints.directory / "2" / "ocdbt.process_1" / "d").iterdir(), key=lambda p: p.stat().length)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 16
        victim.write_bytes(bytes(data))
    multihost_utils.sync_global_devices("damaged")
    assert equal(checkpoint.restore(checkpoints, like, say=said.append), on_both(states.every_kind(1)))
    assert len(said) == (jax.process_index() == 0)
    checkpoint.save(checkpoints, on_both(states.every_kind(3)))
    checkpoint.wait_until_finished(checkpoints)
    multihost_utils.sync_global_devices("saved")
    print(json.dumps({"steps": checkpoint.all_steps(checkpoints)}))


def equal(found, wanted):
    """Whether this process's parts of two states are the same."""
    found, wanted = snapshot.flatten(found), snapshot.flatten(wanted)
    parts = [
        [[states.bits(part.data) for part in arrays[name].addressable_shards] for name in sorted(arrays)]
        for arrays in (found, wanted)
    ]
    return parts[0] == parts[1]


if __name__ == "__main__":
    joining.start_hosts()
    assert jax.process_count() == 2
    assert jnp.ones(()).dtype == jnp.float32
    with sharding.use_mesh(sharding.make_mesh()):
        main(sys.argv[1])
