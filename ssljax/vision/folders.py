"""Pictures in a folder: a sub-folder for each class, with folders in it at any depth, or loose files."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ssljax.data.tfds_sets import missing_split
from ssljax.types import BadInputError
from ssljax.vision.reader import Reader

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".tga")
ENDINGS += (".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".avif")
SPLITS = ("train", "val", "valid", "validation", "test")
CALLED = {"training": "train", "testing": "test"}  # what other splits are called
HIDDEN, NOWHERE, NO_FILE = "hidden", "links to nothing", "that are no regular files"


def open_folder(path: str, split: str) -> Reader:
    """The pictures in `path`/`split` if that exists, else in `path`; `open_source` says how they are read."""
    root = _root(Path(path).expanduser(), split)
    other: Counter[str] = Counter()
    with _entries(root) as entries:
        shown = sorted(_shown(entries, other), key=lambda entry: entry.name)
        folders = [entry.name for entry in shown if entry.is_dir()]
        loose = [entry.name for entry in shown if not entry.is_dir() and _is_picture(entry, other)]
    inside = {name: sorted(_pictures_under(root, name, (_identity(root),), other)) for name in folders}
    classes = tuple(name for name, files in inside.items() if files)
    files = [(file, label) for label, name in enumerate(classes) for file in inside[name]]
    if loose:
        # whatever the folders beside them stand for, it is not every picture's class
        files = [(file, None) for file in sorted([*loose, *(file for file, _ in files)])]
    if not files:
        raise BadInputError(f"folder:{root} has no pictures; put files such as .jpg or .png there or in sub-folders.")
    return Reader(
        name=f"folder:{root}",
        length=len(files),
        read=lambda i: ((root / files[i][0]).read_bytes(), files[i][1]),
        picture_name=lambda i: str(root / files[i][0]),
        class_names=None if loose else classes,
        identity=b"\n".join(os.fsencode(file) for file, _ in files),
        labels=None if loose else np.array([label for _, label in files]),
        notes=(
            *_beside(Path(path).expanduser(), root),
            *_notes(root, [name for name in folders if not inside[name]], other, bool(loose and classes)),
        ),
    )


def folder_splits(path: str) -> list[str]:
    """The splits among the folders in `path`; none: all of it is one.

    Raises:
        BadInputError: there is no such folder.
    """
    found = _split_folders(Path(path).expanduser())
    return [name for name in SPLITS if name in found]


def _split_folders(root: Path) -> dict[str, str]:
    """Split -> the name of its folder, in which case does not matter.

    Raises:
        BadInputError: there is no such folder, or two folders in it are of one split.
    """
    if not root.is_dir():
        raise BadInputError(f"folder:{root}: there is no such folder; give one that holds pictures.")
    found: dict[str, str] = {}
    with _entries(root) as entries:
        for name in sorted(entry.name for entry in entries if entry.is_dir()):
            split = CALLED.get(name.lower(), name.lower())
            if split in SPLITS and found.setdefault(split, name) != name:
                raise BadInputError(
                    f"folder:{root} has the split {split} twice, {found[split]} and {name}; remove one."
                )
    return found


def _beside(path: Path, root: Path) -> Iterator[str]:
    """What lies beside the folder of a split and is no split by its name."""
    if root == path:
        return
    with _entries(path) as entries:
        shown = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    if names := [name for name in shown if name not in (root.name, *_split_folders(path).values())]:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"folder:{root}: beside it lie {', '.join(names[:5])}{more}, which are no part of this split."


def _notes(root: Path, empty: list[str], other: Counter[str], mixed: bool) -> Iterator[str]:
    if empty:
        names = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        yield f"folder:{root}: no pictures in {names}, which are no classes."
    if other:
        kinds = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in other.most_common(5))
        more = f" and {len(other) - 5} other kinds" if len(other) > 5 else ""
        yield f"folder:{root}: {other.total()} entries are not read as pictures ({kinds}{more})."
    if mixed:
        yield f"folder:{root}: there are loose pictures beside the sub-folders, so that all are taken as unlabelled."


def _root(path: Path, split: str) -> Path:
    found = _split_folders(path)
    if (path / split).is_dir():
        return path / split
    if split in found:
        return path / found[split]
    if found:
        raise missing_split(f"folder:{path}", split, [name for name in SPLITS if name in found])
    return path


def _shown(entries: Iterable[os.DirEntry], other: Counter[str]) -> Iterator[os.DirEntry]:
    for entry in entries:
        if entry.name.startswith("."):
            other[HIDDEN] += 1
        else:
            yield entry


def _is_picture(entry: os.DirEntry, other: Counter[str]) -> bool:
    """A file that is a picture by its ending; counts the others' kinds."""
    kind = os.path.splitext(entry.name)[1].lower()
    if not entry.is_file():
        kind = NOWHERE if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE
    if kind not in ENDINGS:
        other[kind] += 1
    return kind in ENDINGS


def _pictures_under(root: Path, name: str, above: tuple, other: Counter[str]) -> Iterator[str]:
    """Pictures in a folder and those in it, linked ones too; `above` are the folders on the way there."""
    identity = _identity(root / name)
    if identity in above:
        return  # a link to a folder that it is in
    with _entries(root / name) as entries:
        for entry in _shown(entries, other):
            inner = os.path.join(name, entry.name)
            if entry.is_dir():
                yield from _pictures_under(root, inner, (*above, identity), other)
            elif _is_picture(entry, other):
                yield inner


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _entries(folder: Path):
    try:
        return os.scandir(folder)
    except OSError as error:
        raise BadInputError(f"folder:{folder} cannot be read ({error.strerror}); fix or remove it.") from error
