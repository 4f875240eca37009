"""Text files as a stream, plain or compressed, a block of whole lines at a time."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ssljax.types import BadInputError


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
        path: path of a `.xz`, `.gz` or plain text file.
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
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(f"{path} is damaged or cut short ({error}); fetch it again.") from None
    except OSError as error:
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
        place = "of its text, decompressed" if block.path.suffix in (".xz", ".gz") else "of the file"
        raise BadInputError(f"{block.path} is not UTF-8 at byte {byte} {place}; convert it, as with iconv.") from None


def read_lines(path: str | Path) -> Iterator[str]:
    """A file's lines, stripped, empty ones included.

    Raises:
        BadInputError: no such file, a damaged one, or not UTF-8.
    """
    for block in read_blocks(path, 1 << 20):
        yield from (line.strip() for line in decode(block).split("\n"))


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".xz":
        return lzma.open(path)  # type: ignore[return-value]
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    return path.open("rb")
