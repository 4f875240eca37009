"""Fault injection: kills, signals, damaged files, other numbers of devices, a long run.

`python -m experiments.bench.faults` runs all parts, each in children that may die, and writes the outcomes to
experiments/results/faults.json; `--only` repeats some of them. It exits with 1 if a check fails.
"""

import dataclasses
import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.bench import children, fault_devices, fault_files, fault_runs, fault_soak, fuzz, tiny
from ssljax.cli import experiments as cli
from ssljax.run import results as records
from ssljax.types import BadInputError

RESULTS = records.RESULTS / "faults.json"


@dataclasses.dataclass(frozen=True)
class Config:
    """How many of each."""

    only: tuple[str, ...] = ()
    """Of kills, signals, damages, fuzz, devices, soak and saving; empty: all."""
    kills: int = 200
    """kill -9 in tiny runs."""
    signals: int = 100
    """SIGTERM or SIGINT in tiny runs."""
    damages: int = 1000
    """Damages to checkpoints' files."""
    fuzz: int = 10_000
    """Files read with changed bytes."""
    devices: tuple[int, ...] = fault_devices.COUNTS
    """Save on each, restore on each."""
    soak: int = 10_000
    """Steps of the long run."""
    megabytes: int = 200
    """Of the state whose saving is timed."""
    names: tuple[str, ...] = fault_runs.ORDER
    """The experiments that are killed and interrupted, in rotation."""
    seed: int = 0
    out: str = str(RESULTS)


class Part(NamedTuple):
    """One part of the benchmark.

    Attributes:
        run: `(config, folder) -> figures`.
        done: figures -> a description of what was done.
        result: figures -> a description of the outcome.
        wrong: figures -> the number of failed checks.
    """

    run: Callable[[Config, Path], dict[str, Any]]
    done: Callable[[dict[str, Any]], str]
    result: Callable[[dict[str, Any]], str]
    wrong: Callable[[dict[str, Any]], int] = lambda found: len(found["wrong"])


def _counts(table: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in table.items())


def _verdict(found: dict[str, Any], good: str) -> str:
    wrong = found["wrong"]
    return f"{good}; {len(wrong)} wrong, such as: {wrong[0]}" if wrong else good


def _trials(found: dict[str, Any]) -> str:
    bad = f"{found['bad']} silent wrong, crashes, other exceptions or code run"
    return f"{_counts(found['outcomes'])}; {bad}"


PARTS = {
    "kills": Part(
        lambda config, folder: fault_runs.kills(config.kills, folder, config.names, config.seed),
        lambda found: f"{found['blows']} kill -9 at random times of {found['runs']} runs ({_counts(found['phases'])})",
        lambda found: _verdict(
            found,
            f"{found['equal']} of {found['runs']} runs end bit-equal to an uninterrupted one, every loss included; "
            f"at most {found['most_lost']:.1f} save intervals of work lost",
        ),
    ),
    "signals": Part(
        lambda config, folder: fault_runs.signals(config.signals, folder, config.names, config.seed),
        lambda found: (
            f"{found['blows']} SIGTERM or SIGINT, some twice, in {found['runs']} runs ({_counts(found['phases'])})"
        ),
        lambda found: _verdict(
            found,
            f"exit codes {_counts(found['codes'])} after at most {found['longest']:.1f} s; "
            f"{found['equal']} of {found['runs']} runs end bit-equal",
        ),
    ),
    "damages": Part(
        lambda config, folder: fault_files.damages(config.damages, folder, config.seed),
        lambda found: f"{found['trials']} damages to files of checkpoints ({_counts(found['kinds'])})",
        _trials,
        lambda found: found["bad"],
    ),
    "fuzz": Part(
        lambda config, folder: fuzz.fuzz(config.fuzz, folder, config.seed),
        lambda found: f"{found['trials']} files with changed bytes ({_counts(found['files'])})",
        _trials,
        lambda found: found["bad"],
    ),
    "devices": Part(
        lambda config, folder: fault_devices.devices(config.devices, folder),
        lambda found: f"saved on d and restored on e devices, {found['pairs']} pairs, {found['steps']} more steps",
        lambda found: _verdict(found, f"largest relative difference of a loss {found['difference']:.1e}"),
    ),
    "soak": Part(
        lambda config, folder: fault_soak.soak(config.soak, folder, min(fault_soak.WINDOW, config.soak // 5)),
        lambda found: f"a run of {found['steps']} steps with saves, logging and evaluations",
        lambda found: _verdict(
            found, f"memory {found['slope']:+.2f} MB a {found['window']} steps, open files {_range(found['files'])}"
        ),
    ),
    "saving": Part(
        lambda config, folder: fault_soak.save_cost(config.megabytes, folder),
        lambda found: f"a state of {found['megabytes']} MB saved",
        lambda found: _verdict(
            found,
            f"{found['save']:.2f} s in the background, of which hashing {found['hashing_by_save']:.1%}; the step waits "
            f"{1000 * found['stall']:.0f} ms, {found['stall_by_copy']:.2f} times a copy to the host",
        ),
    ),
}


def _range(values: list[float]) -> str:
    return f"{min(values):g}" if min(values) == max(values) else f"{min(values):g} to {max(values):g}"


def run(config: Config) -> int:
    """Run the parts and write each one's entry as it ends; returns how many of them failed.

    Raises:
        BadInputError: an unknown name of a part or a run.
    """
    for given, known in ((config.only, PARTS), (config.names, dict.fromkeys(fault_runs.ORDER))):
        if unknown := sorted(set(given) - set(known)):
            raise BadInputError(f"{', '.join(unknown)}: there is no such part or run; there are {', '.join(known)}.")
    failed, out = 0, Path(config.out)
    tiny.load_libraries()
    for name in config.only or tuple(PARTS):
        print(f"{name}:", flush=True)
        # not a TemporaryDirectory: children that exit would remove it
        folder, began = Path(tempfile.mkdtemp(prefix=f"faults-{name}-")), time.monotonic()
        part = PARTS[name]
        found = part.run(config, folder)
        machine = fault_devices.EIGHT if name == "devices" else None
        where = functools.partial(records.environment, seconds=time.monotonic() - began)
        environment = children.call(where, folder, machine)
        passed = part.wrong(found) == 0
        failed += not passed
        if passed:
            shutil.rmtree(folder)
        else:
            print(f"{name}: the files of the failed part are in {folder}")
        entry = {"done": part.done(found), "result": part.result(found), "passed": passed}
        _put(out, name, entry | {"figures": found, "seed": config.seed, "environment": environment})
    print(as_text(out))
    return failed


def as_text(path: Path) -> str:
    """The entries for a terminal."""
    entries = _read(path).items()
    return "\n".join(
        f"{name}: {'passed' if entry['passed'] else 'FAILED'}\n  {entry['done']}\n  {entry['result']}"
        for name, entry in entries
    )


def as_markdown(path: Path) -> str:
    """The entries as a table: part, what was done, result, date and machine; what failed says so."""
    lines = ["| part | what was done | result | date, machine |", "|---|---|---|---|"]
    for name, entry in _read(path).items():
        where = entry["environment"]
        result = entry["result"] if entry["passed"] else f"failed: {entry['result']}"
        cells = name, entry["done"], result, f"{where['date']}, {where['device']}, {where['commit']}"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries in the order of `PARTS`; none where there is no file."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: found[name] for name in PARTS if name in found}


def _put(path: Path, name: str, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(path, json.dumps(_read(path) | {name: entry}, indent=2) + "\n")


def main() -> None:
    """Run the command line."""
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.bench.faults", description=__doc__)
    try:
        sys.exit(run(config) > 0)
    except BadInputError as error:
        sys.exit(cli.refuse(error))


if __name__ == "__main__":
    main()
