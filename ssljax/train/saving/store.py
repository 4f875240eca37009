"""Named arrays in a directory, written and committed by orbax; the only module that imports it."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
from etils import epath

CHANGES_AT_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files that orbax writes after `seal`, not needed for reading."""


def write(
    directory: epath.Path,
    step: int,
    arrays: Mapping[str, Any],
    describe: Callable[[], Any],
    seal: Callable[[epath.Path, Any], None],
    attempt: str,
) -> None:
    """Write `directory/step`; returns when it is committed. Safe in a thread, with any number of processes.

    Args:
        directory: an existing one.
        step: the name of its directory.
        arrays: by name, NumPy's (written by the first process) or jax's (each process writes its shards).
        describe: called while orbax's threads write.
        seal: called on the first process with the temporary directory, once it is complete, and the result of
            `describe`; the commit follows.
        attempt: a unique name of the save, the same on all processes.
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
        saver.save(directory / str(step), args=ocp.args.PyTreeSave(_without_empty(arrays)))
        try:
            description.set_result(describe())
        except BaseException as error:
            description.set_exception(error)
    finally:
        saver.close()


def read(path: epath.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays in a committed directory, with the shardings of `like`."""
    import orbax.checkpoint as ocp

    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_empty(like))
    arguments = ocp.checkpoint_utils.construct_restore_args(shapes)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return {**like, **handler.restore(path, args=ocp.args.PyTreeRestore(shapes, restore_args=arguments))}
    finally:
        handler.close()


def is_unfinished(path: epath.Path) -> bool:
    """Whether orbax has not committed the directory, by its name."""
    return ".orbax-checkpoint-tmp" in path.name


def _being_written(directory: epath.Path, step: int) -> epath.Path:
    # without renames a step is written to its final path
    return next((path for path in directory.glob(f"{step}.*") if is_unfinished(path)), directory / str(step))


def _without_empty(arrays: Mapping[str, Any]) -> dict[str, Any]:
    # orbax rejects arrays without elements
    return {name: array for name, array in arrays.items() if array.size}
