"""One run at a time in a workdir."""

import contextlib
import dataclasses
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from ssljax.train.buckets import is_local
from ssljax.train.hosts import processes
from ssljax.train.hosts.processes import Owner, condition, this_process
from ssljax.types import BadInputError

REFRESH = 20.0  # seconds between signs of life
STALE = 120.0  # seconds without one after which a lock in a bucket is taken over
SETTLE = 1.0  # seconds in which another claim on the same bucket would show
LOST = 76  # exit code

_held: set[int] = set()  # descriptors of the locks of this process


@contextlib.contextmanager
def hold(workdir: Any) -> Iterator[None]:
    """Be the only run in `workdir` for the length of the block; process 0 holds the lock for all of a run.

    In a local directory the kernel holds the lock, so it is free the moment its owner dies, however it dies. In a
    bucket (`gs://`) a file does, refreshed every 20 s; it is taken over when it is older than two minutes, or at once
    when its owner was a process of this machine that is gone. The file stays behind; it means nothing without its
    owner.

    Args:
        workdir: a directory, made if it is not there.

    Raises:
        BadInputError: another run works there; on every process.
    """
    import jax

    with contextlib.ExitStack() as stack:
        refusal = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(_hold_here(workdir))
            except BadInputError as error:
                refusal = str(error)
        if refusal := _from_process_0(refusal):
            raise BadInputError(refusal)
        yield


def _from_process_0(text: str) -> str:
    import jax

    if jax.process_count() == 1:
        return text
    import numpy as np
    from jax.experimental import multihost_utils

    message = np.zeros(2048, np.uint8)
    encoded = np.frombuffer(text.encode()[: message.size], np.uint8)
    message[: encoded.size] = encoded
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(message))).rstrip(b"\0").decode(errors="replace")


@contextlib.contextmanager
def _hold_here(workdir: Any) -> Iterator[None]:
    from etils import epath

    directory = epath.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    me, done = this_process(), threading.Event()
    if is_local(directory):
        try:
            alive, release = _take_file(directory, me)
        except NotImplementedError:
            alive, release = _take_object(directory, me)
    else:
        alive, release = _take_object(directory, me)

    def stay_alive():
        while not done.wait(REFRESH):
            with contextlib.suppress(OSError):
                alive()

    thread = threading.Thread(target=stay_alive, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
        release()


def _take_file(directory: Any, me: Owner):
    import fcntl

    path = os.fspath(directory / "lock.json")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise NotImplementedError from None  # a file system without locks
        if not isinstance(error, BlockingIOError):
            raise
        owner, _ = _read(directory / "lock.json")
        raise BadInputError(_refusal(directory, owner, time.time() - os.stat(path).st_mtime)) from None
    _held.add(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _line(me).encode(), 0)

    def release():
        _held.discard(descriptor)
        os.close(descriptor)

    return lambda: os.utime(descriptor), release


def _forget_in_child() -> None:
    # a worker that outlives a run that was killed must not keep its lock
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_forget_in_child)


def _take_object(directory: Any, me: Owner):
    path = directory / "lock.json"
    owner, heard = _read(path)
    age = time.time() - heard
    if owner is not None and age < STALE and condition(owner) != "gone":
        raise BadInputError(_refusal(directory, owner, age))
    path.write_text(_line(me))
    time.sleep(SETTLE)

    def check():
        owner, heard = _read(path)
        return owner, time.time() - heard, owner is None or owner.token == me.token

    owner, age, mine = check()
    if not mine:
        raise BadInputError(_refusal(directory, owner, age))

    def alive():
        owner, _, mine = check()
        if not mine and owner is not None:
            why = f"since this run had given no sign of life for {STALE:.0f} s"
            processes.say(f"error: {directory} was taken over by process {owner.pid} on {owner.host}, {why}; it ends.")
            os._exit(LOST)
        path.write_text(_line(me))

    def release():
        with contextlib.suppress(OSError):
            if check()[2]:
                path.unlink(missing_ok=True)

    return alive, release


def _line(me: Owner) -> str:
    return json.dumps(dataclasses.asdict(me) | {"time": time.time()}) + "\n"


def _read(path: Any) -> tuple[Owner | None, float]:
    """The owner in the file and the time of its last sign of life; None when the file says nothing."""
    try:
        found = json.loads(path.read_text())
        heard = float(found.pop("time"))
        return Owner(**found), heard
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, 0.0


def _refusal(directory: Any, owner: Owner | None, age: float) -> str:
    if owner is None:
        who = "another process"
    else:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        who = f"process {owner.pid} on {owner.host} since {since}"
    mend = "wait until it has ended, stop it, or choose another --workdir"
    if not is_local(directory):
        mend += f" (a run that died is replaced {STALE:.0f} s after its last sign of life)"
    return f"workdir={directory} is in use by {who}, last sign of life {max(age, 0):.0f} s ago; {mend}."
