"""The files in which the processes of a run leave their signs of life: `workdir/heartbeats/INDEX.json`."""

import contextlib
import dataclasses
import json
import time
from typing import Any

from ssljax.train.hosts import lock, processes
from ssljax.train.hosts.status import ENDED, Sign


class Board:
    """One process's view of the files.

    How old a file is goes by this process's clock, since when it has not changed: those of several machines differ.
    """

    def __init__(self, workdir: Any, index: int, count: int):
        from etils import epath

        self.directory = epath.Path(workdir) / "heartbeats"
        self.index, self.count = index, count
        self.me = processes.this_process()
        self.unreadable = 0.0  # when a file could last not be read or written
        self._number = 0  # of the sign
        self._old_verdict = ""
        # by process: which sign it is, what it says unless it is from before this run, since when it is there
        self._found: dict[int, tuple[tuple[str, int], Sign | None, float]] = {}

    def begin(self) -> None:
        """Make the folder and take note of what an earlier run has left in it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._old_verdict = json.loads((self.directory / "verdict.json").read_text())["by"]["token"]
        self.others()

    def post(self, step: int, phase: str, idle: float, place: str) -> None:
        """Leave a sign of this process."""
        self._number += 1
        said = {"owner": dataclasses.asdict(self.me), "number": self._number, "step": step, "phase": phase}
        self._write(f"{self.index}.json", said | {"idle": round(idle, 1), "place": place, "time": time.time()})

    def others(self) -> list[Sign]:
        """The signs of all others now."""
        return [self._read(index) for index in range(self.count) if index != self.index]

    def one_is_missing(self) -> bool:
        """Whether one of the others has not been heard of in this run or is, as this machine's kernel says, gone."""
        found = [sign for _, sign, _ in self._found.values() if sign is not None]
        owners = [sign.owner for sign in found if sign.phase != ENDED and sign.owner is not None]
        return len(found) < self.count - 1 or any(processes.condition(owner) == "gone" for owner in owners)

    def verdict(self) -> str | None:
        """What a process that has ended this run has said."""
        try:
            found = json.loads((self.directory / "verdict.json").read_text())
        except (OSError, ValueError):
            return None
        return found["message"] if found["by"]["token"] != self._old_verdict else None

    def give_verdict(self, message: str) -> None:
        """Leave it to the others, unless one of them was faster."""
        if self.verdict() is None:
            self._write("verdict.json", {"by": dataclasses.asdict(self.me), "message": message})

    def _read(self, index: int) -> Sign:
        found, mark = None, ("", 0)
        try:
            found = json.loads((self.directory / f"{index}.json").read_text())
            mark = found["owner"]["token"], found["number"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self.unreadable = time.monotonic()
            found = None
        now = time.monotonic()
        if index not in self._found:  # from before this run, or of a process that has begun already and will go on
            self._found[index] = mark, None, now
        elif found is not None and self._found[index][0] != mark:
            self._found[index] = mark, _sign(index, found), now
        _, sign, since = self._found[index]
        silent = now - max(since, self.unreadable)
        if sign is None:
            return Sign(index, idle=silent, silent=silent)
        condition = processes.condition(sign.owner) if sign.owner is not None else ""
        return dataclasses.replace(sign, idle=sign.idle + silent, silent=silent, condition=condition)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        path, text = self.directory / name, json.dumps(content) + "\n"
        if lock.is_local(path):
            partial = self.directory / f".{name}.{self.index}"
            partial.write_text(text)
            partial.replace(path)
        else:
            path.write_text(text)  # a bucket's objects change whole


def _sign(index: int, found: dict[str, Any]) -> Sign:
    owner = processes.Owner(**found["owner"])
    return Sign(index, owner, found["step"], found["phase"], found["idle"], 0.0, found["place"])
