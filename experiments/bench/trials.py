"""Many small trials in children: a trial that ends its process is a crash in the count, and the others continue."""

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.bench import children

PART = 250  # trials a child
EXAMPLES = 10
BAD = ("crash", "silent wrong", "exception", "code run")

Trial = Callable[[int], dict[str, str]]


def run(count: int, folder: Path, ready: Callable[[], Trial]) -> dict[str, Any]:
    """Run trials 0 to `count` - 1.

    Args:
        count: trials.
        folder: for the files of this function.
        ready: called in each child; gives the trial: `number -> {"outcome": ..., "kind": ..., "file": ...}`.

    Returns:
        "trials", how often each of "outcomes", "kinds" and "files" came, the number "bad" of those whose outcome is in
        `BAD`, and "examples", the first few of them.
    """
    found: list[dict[str, str]] = []
    while len(found) < count:
        found += _part(range(len(found), min(len(found) + PART, count)), folder, ready)
        print(f"{len(found)} of {count}", flush=True)
    tables = {f"{key}s": collections.Counter(one[key] for one in found) for key in ("outcome", "kind", "file")}
    bad = [one for one in found if one["outcome"] in BAD]
    counts = {name: dict(sorted(table.items())) for name, table in tables.items()}
    return {"trials": len(found)} | counts | {"bad": len(bad), "examples": bad[:EXAMPLES]}


def _part(numbers: range, folder: Path, ready: Callable[[], Trial]) -> list[dict[str, str]]:
    path = folder / "found"
    path.unlink(missing_ok=True)

    def some() -> None:
        trial = ready()
        with path.open("w", buffering=1) as lines:
            for number in numbers:
                lines.write(json.dumps(trial(number)) + "\n")

    with children.running(children.fork(some, folder / "trials.log")) as child:
        child.wait(3600)
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not path.exists() or (child.code == 0 and len(found) < len(numbers)):
        raise RuntimeError(f"the trials have not started:\n{child.said()}")
    if len(found) < len(numbers):
        end = {"outcome": "crash", "kind": "?", "file": "?", "trial": numbers[len(found)], "code": child.code}
        found.append(end | {"said": child.said()[-500:]})
    return found
