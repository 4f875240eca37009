"""The options of a command, from the command line."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssljax.types import BadInputError


def parse(kind: Any, *, prog: str, description: str, arguments: Sequence[str] | None = None, **more: Any) -> Any:
    """The command line as `tyro.cli` reads it, after `~` at the start of a value became the home directory.

    Args:
        kind: dataclass of the options, or a union of such.
        prog: name of the command in `--help`.
        description: text in `--help`.
        arguments: words of the command line; None: the process's own.
        **more: further arguments of `tyro.cli`.

    Returns:
        An instance of `kind`. Exits with 2 where the words are invalid.
    """
    import tyro

    words = [expanded(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    return tyro.cli(kind, args=words, prog=prog, description=description, **more)


def check_output(path: Path, *endings: str) -> None:
    """Refuse a file that exists or cannot be written, before anything is computed.

    Raises:
        BadInputError: naming the file.
    """
    if path.exists():
        raise BadInputError(f"{path} exists: it is not overwritten; choose another name.")
    if path.suffix not in endings or not path.absolute().parent.is_dir():
        raise BadInputError(f"{path}: give a name that ends with {' or '.join(endings)}, in a folder that exists.")


def expanded(word: str) -> str:
    """A word of the command line with `~` in place of a directory expanded, as shells do where it comes first.

    >>> os.environ["HOME"] = "/home/me"
    >>> [expanded(word) for word in ("~/a", "--workdir=~/a", "a~", "~me")]
    ['/home/me/a', '--workdir=/home/me/a', 'a~', '~me']
    """
    return re.sub(r"^(--[\w-]+=)?~(?=/|$)", lambda found: (found[1] or "") + os.path.expanduser("~"), word)
