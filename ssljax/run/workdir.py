"""Whose a workdir is: the run it holds, what of it may differ, and the data that it was trained on."""

import json
import traceback
from typing import Any

import jax

from ssljax.run import results as records
from ssljax.run.results import Results
from ssljax.train import buckets, checkpoint
from ssljax.types import BadInputError

# what a run leaves when it begins or ends
ENDINGS = {"config.json", "evaluations.json", "failures.txt", "results.json", "record.json", "report.html"}
ENDINGS |= {"huggingface", "backbone.safetensors"}
FAILURES = "failures.txt"  # tracebacks of what failed beside the training
HARMLESS = {"lock.json", "heartbeats"}  # what a run leaves that ended before it began


def check(workdir: str, config: Any, name: str) -> Results | None:
    """Make sure that `workdir` is new or holds this very run, but for the options in `config.allow`; changes nothing.

    Returns:
        The results if the run is finished, else None.

    Raises:
        BadInputError: the directory holds something else, and the sentence says what differs; or it cannot be reached
            or, if there is something left to do, written to.
    """
    buckets.check_reachable(workdir)
    finished = _finished(workdir, config, name)
    if finished is None:
        buckets.check_writable(workdir)
    return finished


def _finished(workdir: str, config: Any, name: str) -> Results | None:
    from etils import epath

    directory = epath.Path(workdir)
    if not directory.is_dir():
        return None
    differing = _differing(workdir, config, name)
    if differing is None:
        if {path.name for path in directory.iterdir()} - HARMLESS:
            raise BadInputError(f"workdir={workdir} is not empty and holds no run; choose a new directory.")
        return None
    allowed = _allowed(config)
    refused = {key: change for key, change in differing.items() if key not in allowed}
    if refused:
        changes = ", ".join(f"{key} {found!r}, not {wanted!r}" for key, (found, wanted) in refused.items())
        advice = "choose another --workdir"
        if "experiment" not in refused:
            advice += f", or resume with the change by --allow {' '.join(refused)}"
        raise BadInputError(f"workdir={workdir} holds another run ({changes}); {advice}.")
    results = directory / "results.json"
    return json.loads(results.read_text()) if results.exists() and not differing else None


def check_data(workdir: str, fingerprint: str) -> None:
    """Make sure that the run in `workdir`, if there is one, was trained on this data.

    Raises:
        BadInputError: its newest checkpoint says otherwise.
    """
    found = (checkpoint.latest_metadata(workdir) or {}).get("data", fingerprint)
    if found != fingerprint:
        raise BadInputError(
            f"workdir={workdir} was trained on other data (fingerprint {found}, not {fingerprint}); "
            "use the data it was started with, or another --workdir."
        )


def other_versions(workdir: str) -> str:
    """A sentence that names the libraries whose versions differ from those of the newest checkpoint, or ""."""
    then, now = (checkpoint.latest_metadata(workdir) or {}).get("versions", {}), records.versions()
    changed = [f"{name} {then[name]}, now {now[name]}" for name in now if then.get(name, now[name]) != now[name]]
    return f" It was started with {'; '.join(changed)}: figures may differ in their last digits." if changed else ""


def facts(config: Any, name: str, fingerprint: str) -> dict[str, Any]:
    """What a checkpoint says about the run that made it."""
    return {"config": identity(config, name), "data": fingerprint, "versions": records.versions()}


def claim(workdir: str, config: Any, name: str) -> None:
    """Make `workdir` and write down whose it is; what another config left there gets a number and stays."""
    from etils import epath

    if jax.process_index() == 0:
        directory = epath.Path(workdir)
        directory.mkdir(parents=True, exist_ok=True)
        if _differing(workdir, config, name):
            _set_aside(directory)
        records.write(directory / "config.json", json.dumps(identity(config, name), indent=2))


def append_trace(workdir: str, what: str) -> None:
    """Add the traceback of the present exception to `failures.txt` of a run, on the first process."""
    from etils import epath

    if jax.process_index() == 0:
        path = epath.Path(workdir) / FAILURES
        before = path.read_text() if path.exists() else ""
        path.write_text(f"{before}{what}\n{traceback.format_exc()}\n")


def _differing(workdir: str, config: Any, name: str) -> dict[str, tuple[Any, Any]] | None:
    """Option -> its value in `workdir` and in `config`; None when no run is there."""
    from etils import epath

    path = epath.Path(workdir) / "config.json"
    # the newest checkpoint is what would be restored, whatever somebody wrote elsewhere
    found = (checkpoint.latest_metadata(workdir) or {}).get("config")
    if found is None and path.exists():
        found = json.loads(path.read_text())
    if found is None:
        return None
    wanted = identity(config, name)
    # an option that is newer than the run had no other value than its default
    found = records.comparable(type(config)()) | found
    return {key: (found.get(key), wanted.get(key)) for key in wanted | found if wanted.get(key) != found.get(key)}


def _allowed(config: Any) -> set[str]:
    allowed = {name.replace("-", "_") for name in getattr(config, "allow", ())}
    unknown = allowed - set(records.comparable(config))
    if unknown:
        known = ", ".join(sorted(records.comparable(config)))
        raise BadInputError(f"allow={' '.join(sorted(unknown))}: there is no such option; these can differ: {known}.")
    return allowed


def _set_aside(directory: Any) -> None:
    number = 1
    while any(directory.glob(f"*.before-{number}")):
        number += 1
    for path in [path for path in directory.iterdir() if path.name in ENDINGS]:
        path.rename(directory / f"{path.name}.before-{number}")


def identity(config: Any, name: str) -> dict[str, Any]:
    """What makes a run this run: the experiment and its options, but for those that do not change what it computes."""
    return {"experiment": name} | records.comparable(config)
