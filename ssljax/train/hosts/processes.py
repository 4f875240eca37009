"""What a process is to the kernel and to jax."""

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
class Owner:
    """A process, and when it began to hold something.

    Attributes:
        host: the name of its machine.
        pid: its number there.
        born: the kernel's start time of that process, "" where there is no /proc.
        machine: where `pid` means something, as `this_machine` says it.
        since: seconds of the epoch.
        token: unique.
    """

    host: str
    pid: int
    born: str
    machine: str
    since: float
    token: str


def this_process() -> Owner:
    """The calling process, from now on, with a new token."""
    stat = _proc_stat(os.getpid())
    born = stat[1] if stat is not None else ""
    return Owner(socket.gethostname(), os.getpid(), born, this_machine(), time.time(), uuid.uuid4().hex)


@functools.cache
def this_machine() -> str:
    """The boot and the namespace of process numbers that this process lives in; "" where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def condition(owner: Owner) -> str:
    """What this machine's kernel knows of the process: "running", "stopped", "gone" or, where it can't say, ""."""
    if not owner.born or owner.machine != this_machine():
        return ""
    stat = _proc_stat(owner.pid)
    if stat is None or stat[1] != owner.born or stat[0] in "ZX":
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
    """The kernel's present `struct sigaction`, as bytes whose first eight are the handler; sets `new` if given."""
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
    """Jax's client of the coordination service; None in a run of one process, and before jax is loaded."""
    distributed = sys.modules.get("jax._src.distributed")
    if distributed is None or distributed.global_state.num_processes == 1:
        return None
    return distributed.global_state.client


def tell(key: str, text: str) -> None:
    """Leave `text` for the other processes of the run, if they are there."""
    client = jax_client()
    with contextlib.suppress(Exception):  # the service is going away: nobody is left to be told
        client.key_value_set(key, text, allow_overwrite=True)


def hear(key: str) -> str:
    """What a process of the run has left under `key`; "" if none has."""
    try:
        return jax_client().key_value_try_get(key)
    except Exception:  # jax says "not there" with an exception
        return ""


def say(line: str) -> None:
    """Write a line on standard error at once, whatever state Python's own streams are in."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
