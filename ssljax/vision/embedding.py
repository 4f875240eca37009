"""The vectors of a set of pictures, by name, written to a file."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssljax.vision import encoder_file, sources
from ssljax.vision.encoder_file import PictureEncoder
from ssljax.vision.sources import Source

EVERY = 30.0  # seconds between two lines of progress


class Embedded(NamedTuple):
    """The vectors of pictures.

    Attributes:
        names: of the pictures: paths relative to the folder, or `split/number`.
        vectors: float32[N, D].
        labels: int[N], -1 where there is none; None if there are none at all.
        class_names: of the labels.
    """

    names: list[str]
    vectors: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def open_all(spec: str, split: str, encoder: PictureEncoder, **options: Any) -> dict[str, Source]:
    """One split of a set, or all that it has, by name, as `encoder` reads pictures.

    Args:
        spec: as `sources.open_source`.
        split: "" for all.
        encoder: what embeds them.
        **options: further options of `open_source`.

    Raises:
        BadInputError: the set or the split does not exist or cannot be used.
    """
    options |= {"channels": 1 if encoder.channels == 1 else 3, "min_side": encoder.preprocessing.resize}
    splits = (split,) if split else sources.split_names(spec, options.get("data_dir")) or ("",)
    return {name: sources.open_source(spec, name, **options) for name in splits}


def embed(encoder: PictureEncoder, opened: dict[str, Source], spec: str, say: Callable[[str], Any] = print) -> Embedded:
    """The vectors of all pictures of some splits, in their order.

    Args:
        encoder: the frozen encoder.
        opened: as `open_all` returns it.
        spec: what was opened.
        say: is given sentences: what was passed over, and progress.
    """
    class_names = tuple(dict.fromkeys(name for source in opened.values() for name in source.class_names or ()))
    position = {name: label for label, name in enumerate(class_names)}
    names, vectors, labels = [], [], []
    total, last = sum(map(len, opened.values())), time.monotonic()
    for split, source in opened.items():
        for note in source.notes:
            say(note)
        own = np.array([position[name] for name in source.class_names or ()], np.int32)
        for piece in encoder_file.prepared(encoder, source):
            names += [_name(source, split, int(index), spec) for index in piece.indices]
            vectors.append(encoder_file.vectors(encoder, piece.images))
            labels.append(np.full(len(piece.indices), -1) if piece.labels is None else own[piece.labels])
            if time.monotonic() - last > EVERY:
                say(f"{len(names)} of {total} pictures")
                last = time.monotonic()
        for name, reason in source.bad.items():
            say(f"{readable(name)}: {reason}; it is left out.")
    return Embedded(names, np.concatenate(vectors), np.concatenate(labels) if class_names else None, class_names)


def _name(source: Source, split: str, index: int, spec: str) -> str:
    kind, _, where = spec.partition(":")
    if kind == "folder":
        return os.path.relpath(source.picture_name(index), Path(where).expanduser())
    return f"{split}/{index}"


def readable(name: str) -> str:
    """A file's name that any terminal can print: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def write(path: Path, found: Embedded) -> None:
    """Write vectors as `.npy`, or with names and, where there are any, labels and class_names as `.npz`."""
    partial = path.with_suffix(f".partial{path.suffix}")
    if path.suffix == ".npy":
        np.save(partial, found.vectors)
    else:
        arrays: dict[str, Any] = {"names": np.array(found.names), "vectors": found.vectors}
        if found.labels is not None:
            arrays |= {"labels": found.labels, "class_names": np.array(found.class_names)}
        np.savez(partial, **arrays)
    partial.replace(path)
