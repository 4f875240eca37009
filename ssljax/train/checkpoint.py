"""Checkpoints through orbax: save the whole state, take up the newest one again. The one file that knows orbax."""

import dataclasses
from typing import Any

import jax

from ssljax.train.state import TrainState
from ssljax.types import BadInputError


def open_checkpoints(workdir: str, keep: int = 2) -> Any:
    """The run's checkpoints, an orbax `CheckpointManager` in `workdir/checkpoints` (local or `gs://`).

    Args:
        workdir: the run's directory.
        keep: how many of the newest checkpoints stay.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    directory = epath.Path(workdir).resolve() / "checkpoints"
    return ocp.CheckpointManager(directory, item_handlers=ocp.StandardCheckpointHandler(), options=options)


def save(checkpoints: Any, state: TrainState) -> None:
    """Save `state` under its step, in the background; a step that is there already is left as it is."""
    import orbax.checkpoint as ocp

    step = int(state.step)
    if step not in checkpoints.all_steps():
        checkpoints.save(step, args=ocp.args.StandardSave(_plain(state)))


def restore(checkpoints: Any, like: TrainState) -> TrainState | None:
    """The newest saved state, laid out as `like` is, or None when nothing has been saved.

    Args:
        checkpoints: from `open_checkpoints`.
        like: a state of the same run; only its shapes, dtypes and shardings are used.

    Raises:
        BadInputError: the saved state is of another shape.
    """
    import orbax.checkpoint as ocp

    step = checkpoints.latest_step()
    if step is None:
        return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
    saved, wanted = _shapes(checkpoints.item_metadata(step)), _shapes(abstract)
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise BadInputError(
                f"checkpoint {step} in {checkpoints.directory} does not fit: {name} is {saved.get(name, 'missing')} "
                f"there and {wanted.get(name, 'missing')} here; use the options it was made with, or another --workdir."
            )
    plain = checkpoints.restore(step, args=ocp.args.StandardRestore(abstract))
    return dataclasses.replace(plain, key=jax.random.wrap_key_data(plain.key))


def _shapes(tree: Any) -> dict[str, str]:
    """Path -> dtype and shape of every leaf, whatever kinds of nodes the tree is made of."""

    def name(entry):
        return str(next(getattr(entry, field) for field in ("key", "name", "idx") if hasattr(entry, field)))

    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {"/".join(map(name, path)): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _plain(state: TrainState) -> TrainState:
    # typed keys are saved as the integers they are made of
    return dataclasses.replace(state, key=jax.random.key_data(state.key))
