"""What a run leaves behind: its config, results.json, report.html, and a record beside the experiments."""

import dataclasses
import datetime
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from ssljax import __version__
from ssljax.types import BadInputError

Results = dict[str, dict[str, float]]

# options that change where and how a run works, not what it computes
NEUTRAL = {"workdir", "devices", "workers", "data_dir", "log_every", "save_every", "eval_every", "record"}
RESULTS = Path("experiments") / "results"


def claim(workdir: str, config: Any, name: str) -> Results | None:
    """Take `workdir` for this run: a new directory, or one that this very run has begun.

    Returns:
        The results if the run is finished, else None.

    Raises:
        BadInputError: the directory holds something else; the sentence says what differs.
    """
    from etils import epath

    directory = epath.Path(workdir)
    wanted = {"experiment": name} | _comparable(config)
    written = directory / "config.json"
    if written.exists():
        found = json.loads(written.read_text())
        differing = [key for key in wanted | found if wanted.get(key) != found.get(key)]
        if differing:
            changes = ", ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in differing)
            raise BadInputError(f"workdir={workdir} holds another run ({changes}); choose another --workdir.")
        results = directory / "results.json"
        return json.loads(results.read_text())["results"] if results.exists() else None
    if directory.exists() and any(directory.iterdir()):
        raise BadInputError(f"workdir={workdir} is not empty and holds no run; choose a new directory.")
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        _write(written, json.dumps(wanted, indent=2))
    return None


def environment(**seconds: float) -> dict[str, Any]:
    """Date, commit, device and versions, with the given timings rounded."""
    import flax
    import jaxlib
    import optax

    devices = jax.devices()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "device": f"{len(devices)} x {_device_name(devices[0])}",
        "versions": {
            "ssljax": __version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
        },
        **{name: round(value, 1) for name, value in seconds.items()},
    }


def write_results(
    workdir: str, config: Any, name: str, results: Results, environment: dict[str, Any], metrics: dict[str, float]
) -> None:
    """Write `workdir/results.json` and, with `config.record`, append it to `experiments/results/NAME.json`."""
    from etils import epath

    record = {
        "results": results,
        "last_metrics": metrics,
        "options": non_default(config),
        "environment": environment,
    }
    _write(epath.Path(workdir) / "results.json", json.dumps(record, indent=2))
    if config.record:
        path = epath.Path(RESULTS / f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = json.loads(path.read_text()) if path.exists() else []
        _write(path, json.dumps([*earlier, record], indent=2) + "\n")


def non_default(config: Any) -> dict[str, Any]:
    """The options that are not at the recipe's value and change what is computed."""
    defaults = _comparable(type(config)())
    return {key: value for key, value in _comparable(config).items() if value != defaults[key]}


def print_table(results: Results) -> None:
    """Print results with a row per representation and a column per evaluation, in per cent."""
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    width = max(map(len, results)) + 2
    print("\n" + " " * width + "  ".join(f"{column:>20}" for column in columns))
    for name, row in results.items():
        cells = (f"{row[column]:20.1f}" if column in row else " " * 20 for column in columns)
        print(f"{name:<{width}}" + "  ".join(cells))
    print("(test accuracy, per cent)\n")


def _comparable(config: Any) -> dict[str, Any]:
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in NEUTRAL}
    return json.loads(json.dumps(values))


def _write(path: Any, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _commit() -> str:
    def git(*words):
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "ssljax", "experiments/*.py")
        return git("rev-parse", "--short=10", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _device_name(device: Any) -> str:
    if device.platform != "cpu":
        return device.device_kind
    return f"{platform.machine()} CPU"
