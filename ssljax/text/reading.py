"""Text files as a stream, plain or compressed, a block of whole lines at a time."""

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
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


def _open(path: Path) -> BinaryIO:
    opener = COMPRESSED.get(path.suffix)
    return opener(path) if opener else path.open("rb")
