"""Records by index: what the loader asks of a source, and one sentence for whatever it raises."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ssljax.types import BadInputError

Record = dict[str, Any]
Transform = Callable[[Record, np.random.Generator], Record]


def name_of(source: Any) -> str:
    """What to call a source in a message."""
    return getattr(source, "name", type(source).__name__)


def skips(source: Any) -> bool:
    """Whether a source counts what it cannot read in `source.bad`, `{name: reason}`."""
    return isinstance(getattr(source, "bad", None), dict)


def read_record(source: Any, index: int) -> Any:
    """`source[index]` of any random-access object; whatever it raises becomes one sentence with its name and `index`.

    Only a source that `skips` can skip what it cannot read; another object has to give some other record by
    itself.

    Raises:
        BadInputError: the record cannot be read.
    """
    try:
        return source[index]
    except (Exception, SystemExit) as error:  # the object is the user's, and may raise anything
        if isinstance(error, BadInputError) and skips(source):
            raise
        raise BadInputError(f"{name_of(source)}: record {index} cannot be read ({summary(error)}); fix it.") from error


def summary(error: BaseException) -> str:
    """An exception's type and message in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__


def arrays_of(source: Any) -> dict[str, np.ndarray] | None:
    """{field: [N, ...]} of a source that is in memory as a whole, in its order; None of one that is not."""
    return getattr(source, "arrays", None)


def check_enough(source: Any, batch_size: int) -> None:
    """Make sure that there are examples for at least one batch.

    Raises:
        BadInputError: there are fewer.
    """
    if len(source) < batch_size:
        count = "1 example" if len(source) == 1 else f"{len(source)} examples"
        raise BadInputError(f"{name_of(source)} has {count}, fewer than batch_size={batch_size}; lower the batch size.")


def require_labels(source: Any) -> None:
    """Make sure that the records have labels.

    Raises:
        BadInputError: they have none.
    """
    if "label" not in read_record(source, 0):
        raise BadInputError(f"{name_of(source)} has no labels, which are needed here; use a labelled set.")
