"""Text files: where they are, and their lines."""

import bz2
import gzip
import lzma
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssljax.text.reading import read_blocks, read_lines, text_files, zstd
from ssljax.types import BadInputError

WRITERS = {".txt": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd.compress}
TEXTS = st.text(st.sampled_from("aé\n\r\t\u2028\x0c\x1e\x85 "), max_size=30)


@given(TEXTS, st.integers(1, 9))
def test_blocks_of_any_size_are_the_text(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    blocks = list(read_blocks(path, size))
    assert b"".join(block.raw for block in blocks) == text.encode()
    assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("text", ["", "a", "a\n", "a\n\n", "\n", "a\r\nb", "a\u2028b\x0cc\nd\x1ee\x85\n"])
def test_only_line_feeds_end_a_line(ending, text, tmp_path):
    path = tmp_path / f"text{ending}"
    path.write_bytes(WRITERS[ending](text.encode()))
    wanted = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n") if text else []
    assert list(read_lines(path)) == [line.strip() for line in wanted]


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "a.txt", "b/c.txt", "b/d/e.txt.xz", "b/.hidden", "b/.git/f.txt", "g[1].txt")
    os.symlink(tmp_path / "b", tmp_path / "b" / "d" / "loop")
    files, notes = text_files(["b", "a.txt", "b/c.txt", "*.txt", "g[1].txt"])
    assert [str(path) for path in files] == ["b/c.txt", "b/d/e.txt.xz", "a.txt", "g[1].txt"]
    assert notes == ["b: 2 hidden files, such as .git, are passed over."]
    assert [str(path) for path in text_files(["b/**/*.xz"])[0]] == ["b/d/e.txt.xz"]


@pytest.mark.parametrize(
    ("place", "said"),
    [("none.txt", "none.txt is not a file"), ("*.md", r"\*.md holds no text"), ("empty", "empty holds no text files")],
)
def test_a_place_without_text_is_named(place, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=said):
        text_files([place])
