"""Text files as a stream, plain or compressed, a block of whole lines at a time."""

import bz2
import glob
import gzip
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ssljax.types import BadInputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".zst": zstd.open,
}
DAMAGED = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)


class Block(NamedTuple):
    """Some whole lines of a file.

    Attributes:
        path: path of the file.
        start: the block's first byte in the file's text, after decompression.
        raw: the lines as they are in the file.
        last: whether the file ends here.
    """

    path: Path
    start: int
    raw: bytes
    last: bool


def text_files(places: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """The files that some places name.

    Args:
        places: files; folders, of which all files at any depth count; and patterns such as `data/*.txt`.

    Returns:
        The files, those of one place in the order of their names, each once; and sentences on hidden files in folders,
        which are passed over.

    Raises:
        BadInputError: a place is none of these, or holds no file.
    """
    found: dict[str, Path] = {}
    notes = []
    for place in map(str, places):
        here = [Path(place)]
        if os.path.isdir(place):
            here, hidden = _below(place)
            if hidden:
                notes.append(f"{place}: {len(hidden)} hidden files, such as {hidden[0]}, are passed over.")
        elif not os.path.exists(place) and glob.has_magic(place):
            here = [Path(path) for path in sorted(glob.glob(place, recursive=True)) if os.path.isfile(path)]
        elif not os.path.isfile(place):
            raise BadInputError(
                f"{place} is not a file; give text files, a folder of them or a pattern such as '*.txt'."
            )
        if not here:
            raise BadInputError(f"{place} holds no text files; give text files, a folder of them or a pattern.")
        for path in here:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), notes


def _below(folder: str) -> tuple[list[Path], list[str]]:
    """Files at any depth, links followed once, and the names of hidden ones."""
    files, hidden, seen = [], [], set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden += [name for name in (*names, *folders) if name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(directory, name) for name in sorted(names) if not name.startswith(".")]
    return sorted(files), sorted(hidden)


def read_blocks(path: str | Path, size: int) -> Iterator[Block]:
    """A file's text in blocks of at most `size` bytes, larger only where one line is.

    Args:
        path: path of a `.xz`, `.gz`, `.bz2`, `.zst` or plain text file.
        size: in bytes.

    Raises:
        BadInputError: no such file, or a damaged one.
    """
    path = Path(path)
    start, rest = 0, b""
    try:
        with _open(path) as stream:
            while more := stream.read(size):
                rest += more
                cut = rest.rfind(b"\n") + 1
                if cut:
                    yield Block(path, start, rest[:cut], last=False)
                    start, rest = start + cut, rest[cut:]
        yield Block(path, start, rest, last=True)
    except DAMAGED as error:
        raise BadInputError(f"{path} is damaged or cut short ({error}); fetch it again.") from None
    except OSError as error:
        if error.errno is None:  # bz2's word for a damaged file
            raise BadInputError(f"{path} is damaged or cut short ({error}); fetch it again.") from None
        raise BadInputError(f"{path}: cannot read the text: {error.strerror or error}.") from None


def decode(block: Block) -> str:
    """A block's text.

    Raises:
        BadInputError: it is not UTF-8; the sentence names the byte.
    """
    try:
        return block.raw.decode()
    except UnicodeDecodeError as error:
        byte = block.start + error.start
        place = "of its text, decompressed" if block.path.suffix in COMPRESSED else "of the file"
        raise BadInputError(f"{block.path} is not UTF-8 at byte {byte} {place}; convert it, as with iconv.") from None


def read_lines(path: str | Path) -> Iterator[str]:
    """A file's lines, stripped, empty ones included. Only line feeds end a line.

    Raises:
        BadInputError: no such file, a damaged one, or not UTF-8.
    """
    for block in read_blocks(path, 1 << 20):
        # a block that is not the last ends with a line feed, and the last one is the rest, often nothing
        lines = decode(block).removesuffix("\n").split("\n") if block.raw else ()
        yield from (line.strip() for line in lines)


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends.

    Not `splitlines`: some of what Unicode calls a line break is inside sentences, or is a word.
    """
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_text(path: str | Path) -> str:
    """The whole text of a file.

    Raises:
        BadInputError: no such file, a damaged one, or not UTF-8.
    """
    blocks = list(read_blocks(path, 1 << 24))
    return decode(Block(Path(path), 0, b"".join(block.raw for block in blocks), last=True))


def _open(path: Path) -> BinaryIO:
    opener = COMPRESSED.get(path.suffix)
    return opener(path) if opener else path.open("rb")
