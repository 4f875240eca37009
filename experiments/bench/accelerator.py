"""What matters on an accelerator, by one command: `python -m experiments.bench.accelerator --minutes 9 --out DIR`.

Parts run in a fixed order, each in a process of its own and no longer than its limit. A part whose figure is held, in
experiments/results or from an earlier call with the same --out, is skipped, and one that the remaining minutes do not
suffice for gives way to the next. Figures go to experiments/results. After every part DIR/results.tar has all new ones
(unpack it in the project's root) and DIR/parts.json says how each part ended. accelerator.md, beside this file, says
what to copy to a machine without a network.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from experiments.bench.accelerator_needs import WHEELS, absolute, check_machine, is_importable, is_there, small_data
from experiments.bench.accelerator_parts import DATA, PARTS, Part, held
from ssljax.types import BadInputError

ROOT = Path(__file__).parents[2]
GRACE = 30  # seconds in which a part that is told to stop has to end
DRY = 900  # seconds that a shrunk part may take on a slow machine
RESERVE = GRACE + 5  # seconds of the budget that no part gets


@dataclasses.dataclass(frozen=True)
class Config:
    """How long, with what data, and where the figures go."""

    minutes: float = 9.0
    """Minutes for everything."""
    out: str = "runs/accelerator"
    """Directory of the runs, of results.tar, parts.json and log.txt."""
    pictures: str = "arrays:data/cifar10_jpeg.npz"
    """CIFAR-10, as --data of moco_cifar10 takes it."""
    text: str = "data/enwiki"
    """Text prepared by bert_prepare."""
    task: str = "data/glue/SST-2"
    """Directory of SST-2."""
    only: tuple[str, ...] = ()
    """Parts to run; empty: all that are not held."""
    plan: bool = False
    """Print the parts and what is held, and run nothing."""
    dry_run: bool = False
    """Run all parts shrunk on this machine's CPU, with data of their own; the figures stay in --out."""


def chosen(config: Config) -> list[tuple[Part, str]]:
    """Each part with the reason why it is not to be run, "" if it is.

    Raises:
        BadInputError: no such part.
    """
    if unknown := sorted(set(config.only) - {part.name for part in PARTS}):
        raise BadInputError(f"only={unknown[0]!r}: there is no such part; use some of {', '.join(_names())}.")
    ended, places = _ended(Path(config.out)), {name: getattr(config, name) for name in DATA}
    found = []
    for part in PARTS:
        missing = [f"--{name} {places[name]} is not there" for name in part.needs if not is_there(places[name])]
        reason = f"{missing[0]}" if missing and not config.dry_run else ""
        if ended.get(part.name, {}).get("state") == "done":
            reason = f"done, in {config.out}"
        elif not config.dry_run and held(part, ROOT / "experiments" / "results"):
            reason = "held, in experiments/results"
        if config.only:
            reason = "" if part.name in config.only and not missing else reason or "not in --only"
        found.append((part, reason))
    return found


def _names() -> list[str]:
    return [part.name for part in PARTS]


def as_text(parts: list[tuple[Part, str]]) -> str:
    """The plan for a terminal."""
    width = max(len(part.name) for part, _ in parts)
    lines = [
        f"{part.name:<{width}}  {part.minutes:4.1f} min (at most {part.limit:4.1f})  {part.title}; bar: {part.bar}"
        + (f"  [{reason}]" if reason else "")
        for part, reason in parts
    ]
    total = sum(part.minutes for part, reason in parts if not reason)
    return "\n".join([*lines, f"{total:.0f} minutes in all, as an H200 takes them."])


def run(config: Config) -> int:
    """Run the parts; returns how many have failed.

    Raises:
        BadInputError: a part that does not exist, a library or an accelerator that is missing.
    """
    parts = chosen(config)
    print(as_text(parts), flush=True)
    if config.plan:
        return 0
    check_machine(config.dry_run)
    out = Path(config.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    places = small_data(out) if config.dry_run else {name: absolute(getattr(config, name)) for name in DATA}
    deadline, began = time.monotonic() + 60 * config.minutes, time.time()
    for part, _ in (each for each in parts if not each[1]):
        left = deadline - time.monotonic() - RESERVE
        if part.minutes * 60 > left and not config.dry_run:
            print(f"\n== {part.name}: put off, {part.minutes:g} minutes are more than the {left / 60:.1f} that remain")
            continue
        print(f"\n== {part.name}: {part.title}", flush=True)
        started = time.monotonic()
        state = _run(part, config, out, places, DRY if config.dry_run else min(left, 60 * part.limit))
        seconds = round(time.monotonic() - started, 1)
        print(f"== {part.name}: {state} after {seconds:.0f} s", flush=True)
        _note(out, part, {"state": state, "seconds": seconds, "date": time.strftime("%Y-%m-%d")})
        _pack(_results(config, out), out / "results.tar", began)
    return sum(row["state"] != "done" for row in _ended(out).values())


def _results(config: Config, out: Path) -> Path:
    return (out if config.dry_run else ROOT) / "experiments" / "results"


def command_of(part: Part, config: Config, out: Path, places: dict) -> list[str]:
    """The part's command line."""
    module, *options = part.command.format(**places).split()
    if module == "experiments.bench":
        options += ["--cores", str(os.cpu_count())]
    if "--record" in options:
        options += ["--workdir", str(out / part.name.replace(" ", "_"))]
    if config.dry_run:
        options += part.small.split()
        if "--record" not in options:
            options += ["--out", str(_results(config, out) / part.result.split()[0].replace("*", "cpu"))]
    return [sys.executable, "-m", module, *options]


def _run(part: Part, config: Config, out: Path, places: dict, seconds: float) -> str:
    """Run a part; returns "done", "failed" or "stopped at its limit"."""
    # records go to experiments/results of the working directory
    where = out if config.dry_run else ROOT
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),  # parts share programs
    }
    if config.dry_run:
        environment["JAX_PLATFORMS"] = "cpu"
    with (out / "log.txt").open("a") as log:
        log.write(f"\n== {part.name}\n")
        log.flush()
        begun = log.tell()
        process = subprocess.Popen(
            command_of(part, config, out, places),
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        state = _wait(process, seconds)
    said = (out / "log.txt").read_bytes()[begun:].decode(errors="replace")
    print("\n".join(said.replace("\r", "\n").splitlines()[-25:]), flush=True)
    return state


def _wait(process: subprocess.Popen, seconds: float) -> str:
    try:
        return "done" if process.wait(max(seconds, 1)) == 0 else "failed"
    except subprocess.TimeoutExpired:
        process.terminate()  # a run saves its state and can be resumed; its workers are needed until then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return "stopped at its limit"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ended(out: Path) -> dict[str, dict]:
    path = out / "parts.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _note(out: Path, part: Part, row: dict) -> None:
    partial = out / "parts.partial"
    partial.write_text(json.dumps(_ended(out) | {part.name: row}, indent=1) + "\n")
    partial.replace(out / "parts.json")


def _pack(results: Path, archive: Path, since: float) -> None:
    """All results that are newer than `since` or were packed before, under experiments/results."""
    names = {path.name for path in results.glob("*.*") if path.stat().st_mtime >= since}
    if archive.exists():
        with tarfile.open(archive) as packed:
            names |= {Path(name).name for name in packed.getnames()}
    partial = archive.with_suffix(".partial")
    with tarfile.open(partial, "w") as packed:
        for name in sorted(names):
            packed.add(results / name, f"experiments/results/{name}")
    partial.replace(archive)


def main() -> None:
    """Run the command line; exits with 1 if a part has failed or was stopped."""
    if not is_importable("tyro"):
        sys.exit(f"error: not installed here: {WHEELS['tyro']}; copy their wheels as accelerator.md says.")
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.bench.accelerator", description=__doc__)
    try:
        failed = run(config)
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(f"error: {failed} parts are not done; see {config.out}/log.txt" if failed else 0)


if __name__ == "__main__":
    main()
