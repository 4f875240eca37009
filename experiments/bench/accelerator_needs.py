"""What the parts need of a machine: libraries, an accelerator, data; and data of a dry run's own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from ssljax.types import BadInputError

# modules that the parts import, and the wheels that bring them
WHEELS = {
    "flax": "flax",
    "grain": "grain, array_record, dm_tree",
    "jax": "jax",
    "matplotlib": "matplotlib",
    "optax": "optax",
    "orbax.checkpoint": "orbax-checkpoint",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tensorboardX": "tensorboardX",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
    "tyro": "tyro, docstring_parser, typeguard",
    "xxhash": "xxhash",
}


def is_there(place: str) -> bool:
    """Whether data are where an option says: a path, perhaps after a kind such as `arrays:`; tfds looks by itself."""
    kind, _, path = place.rpartition(":")
    return kind == "tfds" or Path(path).expanduser().exists()


def absolute(place: str) -> str:
    """The same place from any working directory."""
    kind, colon, path = place.rpartition(":")
    return place if kind == "tfds" else f"{kind}{colon}{Path(path).expanduser().resolve()}"


def check_machine(dry_run: bool) -> None:
    """Name every wheel that is missing, and refuse a machine without an accelerator.

    Raises:
        BadInputError: one of both.
    """
    missing = [wheel for module, wheel in WHEELS.items() if not is_importable(module)]
    if missing:
        raise BadInputError(f"not installed here: {', '.join(missing)}; copy their wheels as accelerator.md says.")
    if dry_run:
        return
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    platform = subprocess.run(asked, capture_output=True, text=True).stdout.split()[-1:]
    if platform in ([], ["cpu"]):
        raise BadInputError("jax finds no accelerator on this machine; --dry-run tries everything on its CPU.")


def is_importable(module: str) -> bool:
    """Whether a module is there; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def small_data(out: Path) -> dict[str, str]:
    """Pictures, prepared text and a task of two kinds of sentences, for a dry run."""
    from experiments.bench import tiny

    folder = out / "data"
    if not (folder / "task").exists():
        folder.mkdir(exist_ok=True)
        tiny.make_pictures(folder / "pictures.npz")
        tiny.make_text(folder / "topics.txt", folder / "text")
        (folder / "task").mkdir()
        rows = [f"a {'good' if number % 2 else 'bad'} module\t{number % 2}" for number in range(40)]
        for split in ("train", "dev"):
            (folder / "task" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return {"pictures": f"arrays:{folder}/pictures.npz", "text": str(folder / "text"), "task": str(folder / "task")}
