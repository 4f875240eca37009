"""Pictures in a folder: a sub-folder for each class, or loose files."""

import os
from pathlib import Path

from ssljax.data.tfds_sets import missing_split
from ssljax.types import BadInputError
from ssljax.vision.reader import Reader

ENDINGS = (".jpg", ".jpeg", ".png")
SPLITS = ("train", "val", "valid", "validation", "test")


def open_folder(path: str, split: str) -> Reader:
    """The pictures in `path`/`split` if that exists, else in `path`; `open_source` says how they are read."""
    root = _root(Path(path), split)
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    loose = sorted(entry.name for entry in entries if entry.is_file() and _is_picture(entry.name))
    inside = [(file, label) for label, name in enumerate(classes) for file in _pictures_under(root, name)]
    if loose and inside:
        raise BadInputError(f"folder:{root} has class folders and loose pictures; keep one kind.")
    files = inside or [(file, None) for file in loose]
    if not files:
        raise BadInputError(f"folder:{root} has no pictures; put .jpg or .png files there or in sub-folders.")
    return Reader(
        name=f"folder:{root}",
        length=len(files),
        read=lambda i: ((root / files[i][0]).read_bytes(), files[i][1]),
        picture_name=lambda i: str(root / files[i][0]),
        class_names=tuple(classes) if inside else None,
        identity="\n".join(file for file, _ in files).encode(),
    )


def _root(path: Path, split: str) -> Path:
    if not path.is_dir():
        raise BadInputError(f"folder:{path}: there is no such folder; give one that holds pictures.")
    if (path / split).is_dir():
        return path / split
    others = [name for name in SPLITS if (path / name).is_dir()]
    if others:
        raise missing_split(f"folder:{path}", split, others)
    return path


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _pictures_under(root: Path, name: str) -> list[str]:
    found = (
        os.path.join(os.path.relpath(folder, root), file)
        for folder, _, files in os.walk(root / name)
        for file in files
        if _is_picture(file)
    )
    return sorted(found)
