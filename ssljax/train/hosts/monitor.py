"""The heartbeat files of a run's processes, `workdir/heartbeats/INDEX.json`: writes its own, reads the others."""

import contextlib
import dataclasses
import json
import time
from typing import Any

from ssljax.train.hosts import lock, processes
from ssljax.train.hosts.status import ENDED, Status


class Monitor:
    """Writes one process's heartbeat file and reads those of the others.

    The age of a file is the time for which this process has seen it unchanged: clocks of several machines differ.
    """

    def __init__(self, workdir: Any, index: int, count: int):
        from etils import epath

        self.directory = epath.Path(workdir) / "heartbeats"
        self.index, self.count = index, count
        self.process = processes.this_process()
        self.last_error = 0.0  # when a file could last not be read or written
        self._number = 0  # of heartbeats written
        self._old_verdict = ""
        # by process: the heartbeat's identity, its status unless it is from an earlier run, and when it was first seen
        self._seen: dict[int, tuple[tuple[str, int], Status | None, float]] = {}

    def start(self) -> None:
        """Create the folder and note what an earlier run has left in it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._old_verdict = json.loads((self.directory / "verdict.json").read_text())["by"]["token"]
        self.others()

    def write(self, step: int, phase: str, idle: float, location: str) -> None:
        """Write a heartbeat of this process."""
        self._number += 1
        status = {"owner": dataclasses.asdict(self.process), "number": self._number, "step": step, "phase": phase}
        status |= {"idle": round(idle, 1), "place": location, "time": time.time()}
        self._write_json(f"{self.index}.json", status)

    def others(self) -> list[Status]:
        """The present status of all other processes."""
        return [self._read(index) for index in range(self.count) if index != self.index]

    def any_missing(self) -> bool:
        """Whether another process has sent no heartbeat in this run or is, by this machine's kernel, gone."""
        found = [status for _, status, _ in self._seen.values() if status is not None]
        live = [status.process for status in found if status.phase != ENDED and status.process is not None]
        return len(found) < self.count - 1 or any(processes.condition(process) == "gone" for process in live)

    def verdict(self) -> str | None:
        """The message of the process that has ended this run; None while it goes on."""
        try:
            found = json.loads((self.directory / "verdict.json").read_text())
        except (OSError, ValueError):
            return None
        return found["message"] if found["by"]["token"] != self._old_verdict else None

    def write_verdict(self, message: str) -> None:
        """Publish the message to the other processes, unless one of them has published its own."""
        if self.verdict() is None:
            self._write_json("verdict.json", {"by": dataclasses.asdict(self.process), "message": message})

    def _read(self, index: int) -> Status:
        found, mark = None, ("", 0)
        try:
            found = json.loads((self.directory / f"{index}.json").read_text())
            mark = found["owner"]["token"], found["number"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self.last_error = time.monotonic()
            found = None
        now = time.monotonic()
        if index not in self._seen:  # of an earlier run, or of a process that has started already and will write again
            self._seen[index] = mark, None, now
        elif found is not None and self._seen[index][0] != mark:
            self._seen[index] = mark, _status(index, found), now
        _, status, since = self._seen[index]
        silent = now - max(since, self.last_error)
        if status is None:
            return Status(index, idle=silent, silent=silent)
        condition = processes.condition(status.process) if status.process is not None else ""
        return dataclasses.replace(status, idle=status.idle + silent, silent=silent, condition=condition)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        path, text = self.directory / name, json.dumps(content) + "\n"
        if lock.is_local(path):
            partial = self.directory / f".{name}.{self.index}"
            partial.write_text(text)
            partial.replace(path)
        else:
            path.write_text(text)  # objects in a bucket change atomically


def _status(index: int, found: dict[str, Any]) -> Status:
    process = processes.ProcessInfo(**found["owner"])
    return Status(index, process, found["step"], found["phase"], found["idle"], 0.0, found["place"])
