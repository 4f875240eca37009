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
from ssljax.train.hosts.exits import EXIT_STALLED
from ssljax.train.hosts.processes import ProcessInfo, condition, this_process
from ssljax.types import BadInputError

REFRESH = 20.0  # seconds between heartbeats
STALE = 120.0  # seconds without one after which a lock in a bucket can be acquired by another run
SETTLE = 1.0  # seconds in which a concurrent claim on the same bucket becomes visible

_held: set[int] = set()  # file descriptors of this process's locks


@contextlib.contextmanager
def hold(workdir: Any) -> Iterator[None]:
    """Be the only run in `workdir` for the length of the block; process 0 holds the lock for all processes.

    In a local directory it is a lock of the kernel, released the moment its owner dies, however it dies; the file
    remains, and means nothing without it. In a bucket (`gs://`) it is a file, refreshed every 20 s; another run may
    acquire it once it is two minutes old, or at once when its owner was a process of this machine that is gone.

    Args:
        workdir: a directory, created if it does not exist.

    Raises:
        BadInputError: another run uses it; on every process.
    """
    import jax

    from ssljax.train.hosts import agreement

    with contextlib.ExitStack() as stack:
        refusal = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(_hold_in_this_process(workdir))
            except BadInputError as error:
                refusal = str(error)
        if refusal := agreement.first_nonempty_text(refusal):
            raise BadInputError(refusal)
        yield


@contextlib.contextmanager
def _hold_in_this_process(workdir: Any) -> Iterator[None]:
    from etils import epath

    directory = epath.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    me, done = this_process(), threading.Event()
    if is_local(directory):
        try:
            refresh, release = _acquire_file(directory, me)
        except NotImplementedError:
            refresh, release = _acquire_object(directory, me)
    else:
        refresh, release = _acquire_object(directory, me)

    def refresh_regularly():
        while not done.wait(REFRESH):
            with contextlib.suppress(OSError):
                refresh()

    thread = threading.Thread(target=refresh_regularly, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
        release()


def _acquire_file(directory: Any, me: ProcessInfo):
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


def _close_in_child() -> None:
    # a worker that outlives a run that was killed must not keep its lock
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


def _acquire_object(directory: Any, me: ProcessInfo):
    path = directory / "lock.json"
    owner, last_time = _read(path)
    age = time.time() - last_time
    if owner is not None and age < STALE and condition(owner) != "gone":
        raise BadInputError(_refusal(directory, owner, age))
    path.write_text(_line(me))
    time.sleep(SETTLE)

    def check():
        owner, last_time = _read(path)
        return owner, time.time() - last_time, owner is None or owner.token == me.token

    owner, age, mine = check()
    if not mine:
        raise BadInputError(_refusal(directory, owner, age))

    def refresh():
        owner, _, mine = check()
        if not mine and owner is not None:
            who = f"process {owner.pid} on {owner.host}"
            why = f"since this run had sent no heartbeat for {STALE:.0f} s"
            processes.write_stderr(f"error: {directory} was taken over by {who}, {why}; this run exits.")
            os._exit(EXIT_STALLED)
        path.write_text(_line(me))

    def release():
        with contextlib.suppress(OSError):
            if check()[2]:
                path.unlink(missing_ok=True)

    return refresh, release


def _line(me: ProcessInfo) -> str:
    return json.dumps(dataclasses.asdict(me) | {"time": time.time()}) + "\n"


def _read(path: Any) -> tuple[ProcessInfo | None, float]:
    """The lock's owner and the time of its last heartbeat; None when the file is empty or damaged."""
    try:
        found = json.loads(path.read_text())
        last_time = float(found.pop("time"))
        return ProcessInfo(**found), last_time
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, 0.0


def _refusal(directory: Any, owner: ProcessInfo | None, age: float) -> str:
    if owner is None:
        who = "another process"
    else:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        who = f"process {owner.pid} on {owner.host} since {since}"
    fix = "wait until it has ended, stop it, or choose another --workdir"
    if not is_local(directory):
        fix += f" (the lock of a run that died is released {STALE:.0f} s after its last heartbeat)"
    return f"workdir={directory} is in use by {who}, last heartbeat {max(age, 0):.0f} s ago; {fix}."
