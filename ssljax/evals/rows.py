"""Training rows of the quick evaluations: which of very many they learn from, on which axes, and how long it takes."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np

MOST = 2**25  # numbers, rows times width, that a quick probe learns from; for 16 classes, and fewer with more
ROTATED = 1024  # rows or columns, whichever are fewer, up to which rows are turned onto their principal axes

LONG = 5  # seconds from which on a part says how long it took

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Axes(NamedTuple):
    """Where standardised rows come from.

    Attributes:
        mean: float32[D] of the raw rows.
        std: float32[D], 1 where a column is constant.
        turned: float32[D, K], the principal axes; None: not turned.
    """

    mean: np.ndarray
    std: np.ndarray
    turned: np.ndarray | None

    def raw(self, head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A linear classifier of standardised rows as one of raw rows, which need not be copied then."""
        kernel = head["kernel"] if self.turned is None else self.turned @ head["kernel"]
        kernel = kernel / self.std[:, None]
        return {"kernel": kernel, "bias": head["bias"] - self.mean @ kernel}


def standardise(train: np.ndarray) -> tuple[np.ndarray, Axes]:
    """Rows by their mean and standard deviation, turned onto their principal axes where that is quick.

    The rotation does not change a regularised linear classifier and makes it quick to find. Rows that are fewer than
    the features span all that it can use, so only that many axes are kept. The cost is that of products of the rows
    with at most `ROTATED` vectors; where both rows and columns are more, nothing is turned.

    Args:
        train: float32[N, D].

    Returns:
        float32[N, K], K = D or min(N, D), and the axes.
    """
    mean, std = train.mean(0), train.std(0)
    std = np.where(std > 1e-6, std, 1).astype(np.float32)
    rows = (train - mean[None]) / std[None]
    if min(rows.shape) > ROTATED:
        return rows, Axes(mean, std, None)
    if len(rows) >= rows.shape[1]:
        turned = np.linalg.eigh(rows.T @ rows)[1]
    else:  # from [N, N]; in float64, since the square of what is small is smaller still
        wide = rows.astype(np.float64)
        values, vectors = np.linalg.eigh(wide @ wide.T)
        seen = values > max(values[-1], 1e-30) * 1e-12
        turned = (wide.T @ (vectors[:, seen] / np.sqrt(values[seen])[None])).astype(np.float32)
    return rows @ turned, Axes(mean, std, turned)


def evenly_per_class(labels: np.ndarray, most: int) -> np.ndarray:
    """About `most` rows, the same share of each class and at least one, evenly spaced within it.

    Args:
        labels: int[N].
        most: number of rows; all if there are no more.

    Returns:
        Increasing row indices.

    >>> evenly_per_class(np.array([0, 1, 0, 1, 0, 1, 0, 1, 2]), 5).tolist()
    [0, 1, 4, 5, 8]
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    counts = np.diff(np.r_[starts, len(labels)])
    kept = np.maximum(1, counts * most // len(labels))
    picked = [start + np.arange(k) * count // k for start, count, k in zip(starts, counts, kept, strict=True)]
    return np.sort(order[np.concatenate(picked)])


def affordable(rows: int, width: int, classes: int) -> int:
    """How many of `rows` training rows a quick probe learns from: all, or as many as `MOST` allows."""
    return min(rows, max(MOST * 16 // (width * max(classes, 16)), 1))


def timed(what: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate a part of an evaluation to print a line with its seconds, where it takes `LONG` or more."""

    def decorate(part: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(part)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            began = time.monotonic()
            result = part(*args, **kwargs)
            if (seconds := time.monotonic() - began) >= LONG:
                _say(f"{what}: {seconds:.0f} s")
            return result

        return call

    return decorate


@functools.cache
def say_once(line: str) -> None:
    """Print a line on process 0, the first time that it is given."""
    _say(line)


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)
