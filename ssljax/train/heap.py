"""What a compilation has freed goes back to the system, on Linux."""

import ctypes
import functools
import sys

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"  # also when read from the compilation cache
SECONDS = 0.5  # what takes less to compile leaves little


@functools.cache
def trim_after_compiling() -> None:
    """From now on, return what the compiler has freed to the system after each long compilation of this process.

    glibc keeps what is freed between blocks still in use, some 500 MiB after a ResNet-18's step on a CPU, and the step
    then takes its work space beside it. Other C libraries have no such function, and nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and duration_secs >= SECONDS:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
