"""Values that one process knows and all of them need; every process must make these calls, in the same order."""

import jax
import numpy as np
from jax.experimental import multihost_utils

_MAX_BYTES = 2048


def broadcast_from_process_0(numbers: list[int]) -> list[int]:
    """Process 0's numbers, on every process."""
    if jax.process_count() == 1:
        return numbers
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    mine = np.array(numbers if jax.process_index() == 0 else [0] * count, np.int32)
    return [int(number) for number in multihost_utils.broadcast_one_to_all(mine)] if count else []


def first_nonempty_text(text: str) -> str:
    """The text of the first process that passes one, on every process; "" if none does."""
    if jax.process_count() == 1:
        return text
    mine = np.zeros(_MAX_BYTES, np.uint8)
    data = np.frombuffer(text.encode()[:_MAX_BYTES], np.uint8)
    mine[: data.size] = data
    texts = (bytes(row).rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(mine))
    return next((found for found in texts if found), "")
