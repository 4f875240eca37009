"""Named arrays in a directory that orbax writes and commits. The one file that knows orbax."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
from etils import epath

CHANGES_AT_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files that orbax writes after `seal`, and that reading does not need."""


def write(
    directory: epath.Path,
    step: int,
    arrays: Mapping[str, Any],
    describe: Callable[[], Any],
    seal: Callable[[epath.Path, Any], None],
    attempt: str,
) -> None:
    """Write `directory/step` and commit it; returns when it is committed. For a thread of any process count.

    Args:
        directory: exists.
        step: the name.
        arrays: by name, NumPy's (written by the first process) or jax's (each process writes its part).
        describe: called while orbax's threads write.
        seal: called on the first process with the temporary directory, when all else is in it, and with what
            `describe` has returned; the commit follows.
        attempt: names the save, the same on all processes and different from all others.
    """
    import orbax.checkpoint as ocp

    description = Future()
    # naming the processes makes orbax's barriers those of the coordination service, which threads may use
    together = ocp.options.MultiprocessingOptions(
        active_processes=set(range(jax.process_count())), barrier_sync_key_prefix=attempt
    )
    saver = ocp.AsyncCheckpointer(
        # weights hardly shrink, and compressing them takes longer than writing them
        ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=together),
        async_options=ocp.options.AsyncOptions(
            post_finalization_callback=lambda: seal(_being_written(directory, step), description.result()),
            create_directories_asynchronously=False,
        ),
        multiprocessing_options=together,
    )
    try:
        saver.save(directory / str(step), args=ocp.args.PyTreeSave(_not_empty(arrays)))
        try:
            description.set_result(describe())
        except BaseException as error:
            description.set_exception(error)
    finally:
        saver.close()


def read(path: epath.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays in a committed directory, laid out as those of `like` are."""
    import orbax.checkpoint as ocp

    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _not_empty(like))
    arguments = ocp.checkpoint_utils.construct_restore_args(shapes)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return {**like, **handler.restore(path, args=ocp.args.PyTreeRestore(shapes, restore_args=arguments))}
    finally:
        handler.close()


def is_unfinished(path: epath.Path) -> bool:
    """Whether the name is one of those that orbax gives directories until it commits them."""
    return ".orbax-checkpoint-tmp" in path.name


def _being_written(directory: epath.Path, step: int) -> epath.Path:
    # storage without renames has the step in its place from the start
    return next((path for path in directory.glob(f"{step}.*") if is_unfinished(path)), directory / str(step))


def _not_empty(arrays: Mapping[str, Any]) -> dict[str, Any]:
    # orbax refuses arrays without elements
    return {name: array for name, array in arrays.items() if array.size}
