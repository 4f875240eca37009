"""What a run leaves behind: its config, results.json, report.html, and a record beside the experiments."""

import dataclasses
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from ssljax import __version__
from ssljax.run.ledger import paragraphs

if TYPE_CHECKING:
    from ssljax.run.pretraining import Run

Results = dict[str, dict[str, float]]

# options that change where and how a run works, not what it computes
NEUTRAL = {"workdir", "devices", "workers", "data_dir", "log_every", "save_every", "eval_every", "record"}
NEUTRAL |= {
    "keep",
    "keep_every",
    "keep_best",
    "allow",
    "on_collapse",
    "stall_timeout",
    "compiler_check",
    "steps_per_dispatch",
    "profile",
}
NEUTRAL |= {"compile_cache", "dry_run", "shard_state"}
UNSPOKEN = {"skip_bad", "stop_after"}  # in no recipe
RESULTS = Path("experiments") / "results"


def environment(**seconds: float) -> dict[str, Any]:
    """Date, commit, device and versions, with the given timings rounded."""
    devices = jax.devices()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "device": f"{len(devices)} x {_device_name(devices[0])}",
        "versions": versions(),
        **{name: round(value, 1) for name, value in seconds.items()},
    }


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide what is computed."""
    import flax
    import jaxlib
    import optax

    libraries = {"jax": jax, "jaxlib": jaxlib, "flax": flax, "optax": optax}
    found = {name: library.__version__ for name, library in libraries.items()}
    return {"ssljax": __version__, "python": platform.python_version()} | found


def module_of(config: Any) -> str:
    """The name of the module that defines a config's class, which is the experiment's: `experiments.demo` -> demo."""
    module = sys.modules[type(config).__module__]
    return Path(getattr(module, "__file__", None) or module.__name__).stem


def write_results(
    workdir: str, config: Any, name: str, results: Results, environment: dict[str, Any], metrics: list[dict]
) -> None:
    """Write `workdir/results.json` and, with `config.record`, append it to `experiments/results/NAME.json`."""
    from etils import epath

    rounded = {row: {column: round(value, 2) for column, value in cells.items()} for row, cells in results.items()}
    record = {
        "results": rounded,
        "options": non_default(config),
        "environment": environment,
        "last_metrics": metrics[-1] if metrics else {},
    }
    write(epath.Path(workdir) / "results.json", json.dumps(rounded, indent=2))
    write(epath.Path(workdir) / "record.json", json.dumps(record, indent=2))
    if config.record:
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{name}.json"
        earlier = json.loads(path.read_text()) if path.exists() else []
        write(path, json.dumps([*earlier, record], indent=2) + "\n")


def write_report(
    run: "Run", results: Results, environment: dict[str, Any], metrics: list[dict], page: dict[str, Any]
) -> None:
    """Write `report.html` and, with `config.record`, its main picture to `experiments/results/NAME.png`.

    Args:
        run: a `pretraining.Run`.
        results: rows of the results table.
        environment: as `environment` returns it.
        metrics: rows of metrics.jsonl.
        page: further fields of `train.report.page.Report`.
    """
    from ssljax.train.report import plots
    from ssljax.train.report.page import Report, write_report

    config, name, workdir, description = run.config, run.experiment.name, run.workdir, run.description
    defaults, ours = comparable(type(config)()), comparable(config)
    title, _, text = description.partition("\n")
    if "\nPaper: none" in description:
        defaults = dict.fromkeys(defaults)
    report = Report(
        title=title.rstrip("."),
        description=paragraphs(text.strip()),
        recipe=[(key.replace("_", " "), defaults[key], value) for key, value in ours.items() if key not in UNSPOKEN],
        metrics=metrics,
        results=results,
        environment=environment,
        **page,
    )
    write_report(f"{workdir}/report.html", report)
    if config.record:
        figure = page["figures"][0][1] if "figures" in page else None
        figure = figure or plots.embedding_map(page["embeddings"][0], page["embeddings"][1], page["class_names"])
        (RESULTS / f"{name}.png").write_bytes(figure)


def non_default(config: Any) -> dict[str, Any]:
    """The options that are not at the recipe's value and change what is computed."""
    defaults = comparable(type(config)())
    changed = {key: value for key, value in comparable(config).items() if value != defaults[key]}
    # file paths of this machine do not belong in a record
    if "data" in changed:
        changed["data"] = _without_folders(changed["data"])
    if "finetune" in changed:
        changed["finetune"] = [_without_folders(entry) for entry in changed["finetune"]]
    return changed


def comparable(config: Any) -> dict[str, Any]:
    """The options that change what a run computes, as JSON holds them."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in NEUTRAL}
    return json.loads(json.dumps(values))


def _without_folders(value: str) -> str:
    """`arrays:/home/me/set.npz` -> `arrays:set.npz`."""
    kind, colon, where = value.rpartition(":")
    return f"{kind}{colon}{Path(where).name}"


def print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print results, figures or (mean, sd), with a row per representation and a column per evaluation."""
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    width = max(map(len, results)) + 2
    print("\n" + " " * width + "  ".join(f"{column:>20}" for column in columns))
    for name, row in results.items():
        cells = (f"{_cell(row[column]) if column in row else '':>20}" for column in columns)
        print(f"{name:<{width}}" + "  ".join(cells))
    print()


def _cell(value: Any) -> str:
    return f"{value[0]:.1f} ± {value[1]:.1f}" if isinstance(value, tuple) else f"{value:.1f}"


def write(path: Any, text: str) -> None:
    """Write a whole file or leave the old one."""
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
