"""Damage to the files of checkpoints: detected and reported, or harmless; never silently wrong, never a crash."""

import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import children, trials
from ssljax.train import checkpoint
from ssljax.train.guard import Guard
from ssljax.train.saving import snapshot
from ssljax.train.state import TrainState
from ssljax.types import BadInputError

BOTH = 8  # in one trial of so many both checkpoints are damaged
PAGE = 4096


def tiny_state(step: int, rows: int = 600) -> TrainState:
    """A state with leaves of many kinds; by default one is larger than the files that manifests hash."""
    rng = np.random.default_rng(step)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(rows, 500)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(40, 50)), jnp.bfloat16),
    }
    aux = {
        "queue": jnp.asarray(rng.normal(size=(64, 32)), jnp.float32),
        "pointer": jnp.int32(step),
        "zeros": jnp.zeros((70, 300)),
        "pictures": jnp.asarray(rng.integers(0, 256, (30, 30), np.uint8)),
        "seen": jnp.asarray(rng.integers(0, 2, 99).astype(bool)),
    }
    momentum = (optax.EmptyState(), {"kernel": params["kernel"] * 2})
    return TrainState(jnp.int32(step), params, aux, momentum, jax.random.key(step), Guard.new())


def same(a: TrainState, b: TrainState) -> bool:
    """Whether two states have the same bits."""
    ours, theirs = snapshot.flatten(a), snapshot.flatten(b)
    return ours.keys() == theirs.keys() and all(
        np.asarray(ours[name]).tobytes() == np.asarray(theirs[name]).tobytes() for name in ours
    )


def save(workdir: Path, states: list[TrainState]) -> None:
    """Save states as a run's checkpoints."""
    checkpoints = checkpoint.open_checkpoints(str(workdir), keep=len(states), metadata={"experiment": "tiny"})
    for state in states:
        checkpoint.save(checkpoints, state)
    checkpoint.wait_until_finished(checkpoints)
    checkpoint.close(checkpoints)


def damages(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Damage a file of the newer of two checkpoints, or sometimes of both, and restore; `count` times.

    Args:
        count: trials.
        folder: for everything; exists.
        seed: of the damage.

    Returns:
        What `trials.run` returns.
    """
    children.call(lambda: save(folder / "intact", [tiny_state(1), tiny_state(2)]), folder)

    def ready() -> trials.Trial:
        wanted = {step: tiny_state(step) for step in (1, 2)}
        return lambda number: _damage_once(folder, wanted, np.random.default_rng((seed, number)))

    return trials.run(count, folder, ready)


def _damage_once(folder: Path, wanted: dict[int, TrainState], rng: np.random.Generator) -> dict[str, str]:
    workdir = folder / "damaged"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(folder / "intact", workdir)
    steps = (2, 1) if rng.integers(BOTH) == 0 else (2,)
    kinds, files = zip(*(damage(workdir / "checkpoints" / str(step), rng) for step in steps), strict=True)
    return {"outcome": _outcome(workdir, wanted, len(steps)), "kind": kinds[0], "file": files[0]}


def _outcome(workdir: Path, wanted: dict[int, TrainState], damaged: int) -> str:
    said: list[str] = []
    checkpoints = checkpoint.open_checkpoints(str(workdir))
    try:
        found = checkpoint.restore(checkpoints, wanted[1], say=said.append)
    except BadInputError as error:
        return "refused in a sentence" if damaged == 2 and "\n" not in str(error) else "exception"
    except Exception as error:
        print(repr(error), flush=True)
        return "exception"
    finally:
        checkpoint.close(checkpoints)
    if found is None or not same(found, wanted[int(found.step)]):
        return "silent wrong"
    if int(found.step) == 2:
        return "harmless, bit-equal"
    reported = len(said) == 1 and said[0].startswith("Checkpoint 2 is damaged (")
    return "older one taken" if reported and (workdir / "checkpoints-damaged" / "2").exists() else "silent wrong"


def damage(directory: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Damage a file of a step, any kind of file or, as often, any of its bytes: (what was done, the kind of file)."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    kinds = [kind_of(directory, path) for path in files]
    sizes = np.array([path.stat().st_size for path in files])
    if rng.integers(2):
        number = int(rng.choice(len(files), p=sizes / sizes.sum()))
    else:
        kind = sorted(set(kinds))[rng.integers(len(set(kinds)))]
        number = int(rng.choice([n for n, each in enumerate(kinds) if each == kind]))
    path, old = files[number], files[number].read_bytes()
    while path.exists() and path.read_bytes() == old:
        done = list(DAMAGES)[rng.integers(len(DAMAGES))]
        DAMAGES[done](path, rng)
    return done, kinds[number]


def kind_of(directory: Path, path: Path) -> str:
    """A file's place in a step without the names that orbax draws at random."""
    place = path.relative_to(directory)
    return str(place.parent) if place.parent.name == "d" else str(place)


def _flip(path: Path, rng: np.random.Generator, most: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), rng.integers(1, most + 1)) if data else ():
        data[place] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(data))


def _overwrite(path: Path, rng: np.random.Generator, zeros: bool) -> None:
    data = path.read_bytes()
    start = rng.integers(len(data) // PAGE + 1) * PAGE
    size = len(data[start : start + PAGE])
    path.write_bytes(data[:start] + (bytes(size) if zeros else rng.bytes(size)) + data[start + size :])


DAMAGES = {
    "a flipped bit": _flip,
    "up to 99 flipped bits": functools.partial(_flip, most=99),
    "a zeroed page": functools.partial(_overwrite, zeros=True),
    "a page of noise": functools.partial(_overwrite, zeros=False),
    "cut off": lambda path, rng: path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size + 1)]),
    "lengthened": lambda path, rng: path.write_bytes(path.read_bytes() + rng.bytes(rng.integers(1, 99))),
    "deleted": lambda path, rng: path.unlink(),
}
