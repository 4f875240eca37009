"""Preparing a corpus: runs that are stopped or killed are taken up, and only by the same run."""

import subprocess
import sys

import pytest

from ssljax.text import prepare as module
from ssljax.text.corpus import open_corpus
from ssljax.text.prepare import prepare
from ssljax.text.vocabulary import Vocabulary
from ssljax.types import BadInputError
from tests.text.texts import VOCABULARY, text_of, written


def stopped_after(blocks, how):
    """A progress function that ends the run after so many blocks."""
    count = 0

    def progress(_):
        nonlocal count
        count += 1
        if count == blocks:
            how()

    return progress


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 5])
def test_a_stopped_run_is_taken_up(after, tmp_path, monkeypatch):
    text = text_of(60)
    path, out = written(tmp_path, text), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare([path], VOCABULARY, out, block_bytes=500, progress=stopped_after(after, interrupt))
    assert not out.exists()
    with pytest.raises(BadInputError, match="not a prepared corpus"):
        open_corpus(out)
    done = []
    original = module._tokenize_block
    monkeypatch.setattr(module, "_tokenize_block", lambda block, *rest: done.append(block) or original(block, *rest))
    manifest = prepare([path], VOCABULARY, out, block_bytes=500)
    assert done[0].start > 0
    blocks = len(done) + after
    done.clear()
    assert prepare([path], VOCABULARY, tmp_path / "whole", block_bytes=500)["files"] == manifest["files"]
    assert len(done) == blocks
    assert not (tmp_path / "out.partial").exists()


KILLED = """
import os, signal, sys
from tests.text.test_prepare_stopped import VOCABULARY, prepare, stopped_after
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "merging":
    import ssljax.text.prepare as module
    module.write_vocabulary = lambda *_: kill()
    prepare([sys.argv[1]], VOCABULARY, sys.argv[2], block_bytes=500)
prepare([sys.argv[1]], VOCABULARY, sys.argv[2], block_bytes=500, progress=stopped_after(4, kill))
"""


@pytest.mark.parametrize("when", ["tokenizing", "merging"])
def test_a_killed_run_leaves_nothing_that_looks_finished(when, tmp_path):
    path, out = written(tmp_path, text_of(60)), tmp_path / "out"
    ran = subprocess.run([sys.executable, "-c", KILLED, str(path), str(out), when], check=False)
    assert ran.returncode == -9
    assert not out.exists()
    assert len(list((tmp_path / "out.partial").glob("*.npz"))) >= 4
    with pytest.raises(BadInputError, match="not a prepared corpus"):
        open_corpus(tmp_path / "out.partial")
    manifest = prepare([path], VOCABULARY, out, block_bytes=500)
    assert manifest["files"] == prepare([path], VOCABULARY, tmp_path / "whole")["files"]


@pytest.mark.parametrize("what", ["text", "vocabulary", "case", "paragraphs"])
def test_what_a_stopped_run_left_serves_only_the_same_run(what, tmp_path):
    path, out = written(tmp_path, text_of(60)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare([path], VOCABULARY, out, block_bytes=500, paragraphs=True, progress=stopped_after(3, interrupt))
    vocabulary, paragraphs = VOCABULARY, what != "paragraphs"
    if what == "text":
        written(tmp_path, text_of(60, seed=1))
    elif what == "vocabulary":
        vocabulary = Vocabulary(VOCABULARY.words[::-1])
    elif what == "case":
        vocabulary = Vocabulary(VOCABULARY.words, lower_case=False)
    manifest = prepare([path], vocabulary, out, block_bytes=500, paragraphs=paragraphs)
    assert manifest["files"] == prepare([path], vocabulary, tmp_path / "b", paragraphs=paragraphs)["files"]


def test_a_part_that_was_being_written_is_not_used(tmp_path):
    path, out = written(tmp_path, text_of(60)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare([path], VOCABULARY, out, block_bytes=500, progress=stopped_after(3, interrupt))
    part = max((tmp_path / "out.partial").glob("*.npz"))
    part.rename(part.with_suffix(".tmp"))
    part.with_suffix(".tmp").write_bytes(b"half")
    manifest = prepare([path], VOCABULARY, out, block_bytes=500)
    assert manifest["files"] == prepare([path], VOCABULARY, tmp_path / "whole")["files"]
