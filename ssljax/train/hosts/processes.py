"""A process as the kernel and jax see it."""

import contextlib
import ctypes
import dataclasses
import functools
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """Identifies a process; stored as JSON in the lock and the heartbeat files.

    Attributes:
        host: the host's name.
        pid: the process id on that host.
        born: the process's start time by the kernel, "" where there is no /proc.
        machine: the boot and pid namespace in which `pid` is valid, see `this_machine`.
        since: when this record was created, in seconds since the epoch.
        token: unique to this record.
    """

    host: str
    pid: int
    born: str
    machine: str
    since: float
    token: str


def this_process() -> ProcessInfo:
    """The calling process, with a new token."""
    stat = _proc_stat(os.getpid())
    born = stat[1] if stat is not None else ""
    return ProcessInfo(socket.gethostname(), os.getpid(), born, this_machine(), time.time(), uuid.uuid4().hex)


@functools.cache
def this_machine() -> str:
    """Identifies this boot of the machine and the pid namespace of this process; "" where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def condition(process: ProcessInfo) -> str:
    """What this machine's kernel knows of the process: "running", "stopped", "gone" or, where it can't say, ""."""
    if not process.born or process.machine != this_machine():
        return ""
    stat = _proc_stat(process.pid)
    if stat is None or stat[1] != process.born or stat[0] in "ZX":
        return "gone"
    return "stopped" if stat[0] in "Tt" else "running"


def _proc_stat(pid: int) -> tuple[str, str] | None:
    try:
        # the name, in parentheses, may hold anything; state and start time are fields 3 and 22
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def sigaction(number: int, new: bytes | None = None) -> bytes:
    """The kernel's current `struct sigaction` as bytes, the first eight being the handler; installs `new` if given."""
    old = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).sigaction(int(number), new, old)
    return old.raw


def foreign_handler(action: bytes, python: bytes) -> Callable[[int], Any] | None:
    """The C function in a `struct sigaction`; None if it is Python's, as in `python`, or none at all."""
    address, python_address = (int.from_bytes(each[:8], sys.byteorder) for each in (action, python))
    if address in (0, 1, python_address):  # 0 and 1: default and ignore
        return None
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(address)


def is_process_0() -> bool:
    """Whether this is process 0 of a run of several."""
    return sys.modules["jax._src.distributed"].global_state.process_id == 0


def jax_client() -> Any:
    """Jax's client of the coordination service; None in a run of one process, and before jax is imported."""
    distributed = sys.modules.get("jax._src.distributed")
    if distributed is None or distributed.global_state.num_processes == 1:
        return None
    return distributed.global_state.client


def publish(key: str, text: str) -> None:
    """Set `key` in jax's key-value store, for the other processes of the run."""
    client = jax_client()
    with contextlib.suppress(Exception):  # the service is shutting down: no process is left to read it
        client.key_value_set(key, text, allow_overwrite=True)


def lookup(key: str) -> str:
    """The value of `key` in jax's key-value store; "" if there is none."""
    try:
        return jax_client().key_value_try_get(key)
    except Exception:  # jax raises for a missing key
        return ""


def write_stderr(line: str) -> None:
    """Write a line to standard error at once, whatever state Python's own streams are in."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
