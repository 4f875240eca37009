"""From text files to a prepared corpus: sentences, tokens, offsets; in memory that does not grow with the text."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssljax.text import corpus as layout
from ssljax.text.languages import check_language
from ssljax.text.reading import Block, decode, read_blocks
from ssljax.text.vocabulary import Vocabulary, tokenizer, write_vocabulary
from ssljax.types import BadInputError

BLOCK = 1 << 21  # bytes of text at a time, and what a killed run loses at most
PARAGRAPH_SHARE = 0.1  # of lines with several sentences, over which a file is taken to hold paragraphs
SAMPLE = 1000  # lines that decide it
PARTS = 2  # the version of the finished blocks in OUT.partial

Paragraphs = bool | Literal["auto"]
Documents = Literal["blank", "lines", "files"]
Progress = Callable[[int], None]


def prepare(
    inputs: Sequence[str | Path],
    vocabulary: Vocabulary,
    out: str | Path,
    *,
    paragraphs: Paragraphs = "auto",
    language: str = "en",
    documents: Documents = "blank",
    block_bytes: int = BLOCK,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokenize text files into a directory that `open_corpus` reads.

    Each line is a sentence or, in paragraphs, several; a document ends with its file at the latest. The work is done
    in `OUT.partial`, block by block; the same call resumes a stopped run and does not redo finished blocks. `out`
    appears complete at the end. The tokenizer uses all cores (RAYON_NUM_THREADS limits them).

    Args:
        inputs: files in UTF-8, plain, `.xz`, `.gz`, `.bz2` or `.zst`.
        vocabulary: vocabulary of the tokens. Names of special words in the text are text.
        out: the directory to make.
        paragraphs: whether to split lines into sentences; "auto" does so where a tenth of the first lines have several.
        language: language of the sentence splitter, such as "de".
        documents: what a document is: what is between "blank" lines, each of the "lines", or each of the "files".
        block_bytes: bytes of text at a time.
        progress: called with the number of bytes of text done so far, after each block.

    Returns:
        The manifest: format, counts of tokens, of those that are [UNK], of sentences and documents, and of documents
        of a single sentence, vocabulary, inputs and files with SHA-256.

    Raises:
        BadInputError: unreadable or non-UTF-8 input, `out` exists, no text, or fewer than two documents.

    Reference: 1810.04805, section 3.1; `create_training_instances` in `create_pretraining_data.py` of
        google-research/bert, which reads the same format.
    Differs from the paper: there documents end at empty lines only, so that one may continue in the next file.
    """
    out = Path(out)
    check_paths(inputs, out)
    check_language(language)
    work = out.with_name(f"{out.name}.partial")
    if paragraphs == "auto":
        paragraphs = _holds_paragraphs(Path(inputs[0]), language)
    work.mkdir(parents=True, exist_ok=True)
    settings = {"paragraphs": paragraphs, "language": language, "documents_by": documents}
    parts, described = _tokenize(inputs, vocabulary, work, settings, block_bytes, progress)
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    counts, files = _merge(parts, finished, out)
    write_vocabulary(vocabulary, finished / layout.WORDS)
    manifest = {
        "format": layout.FORMAT,
        **counts,
        "token_type": layout.token_type(vocabulary).name,
        "vocabulary": vocabulary.digest,
        "words": len(vocabulary),
        **settings,
        "lower_case": vocabulary.lower_case,
        "strip_accents": vocabulary.strip_accents,
        "inputs": described,
        "files": files,
    }
    (finished / layout.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    finished.rename(out)
    shutil.rmtree(work)
    return manifest


def check_paths(inputs: Sequence[str | Path], out: Path) -> None:
    """Refuse inputs that are not files, and a directory that has something in it.

    Raises:
        BadInputError: naming the path.
    """
    if not inputs:
        raise BadInputError("no input files; give at least one.")
    for path in inputs:
        if not Path(path).is_file():
            raise BadInputError(f"{path} is not a file; give text files.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadInputError(f"{out} exists already; use another directory or remove it.")


def _tokenize(
    inputs: Sequence[str | Path],
    vocabulary: Vocabulary,
    work: Path,
    settings: dict[str, Any],
    block_bytes: int,
    progress: Progress | None,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """A part in `work` for each block, named by the hash of all that it depends on; and the inputs for the manifest."""
    # the text decides whether a part is this block's, whatever became of the files since
    libraries = [version("tokenizers"), version("sentencex")]
    kind = hashlib.sha256(json.dumps([layout.FORMAT, PARTS, vocabulary.digest, settings, libraries]).encode())
    to_ids = tokenizer(vocabulary, specials=False)
    parts, described, done = [], [], 0
    for path in inputs:
        whole = hashlib.sha256()
        for block in read_blocks(path, block_bytes):
            whole.update(block.raw)
            own = kind.copy()
            own.update(b"last" if block.last else b"more")
            own.update(block.raw)
            part = work / f"{len(parts):06d}-{own.hexdigest()[:24]}.npz"
            if not part.exists():
                _write_part(part, _tokenize_block(block, to_ids, vocabulary, settings))
            parts.append(part)
            done += len(block.raw)
            if progress:
                progress(done)
        described.append({"name": Path(path).name, "bytes": block.start + len(block.raw), "sha256": whole.hexdigest()})
    return parts, described


def _tokenize_block(block: Block, to_ids: Any, vocabulary: Vocabulary, settings: dict[str, Any]) -> dict[str, Any]:
    """Tokens of a block, the number in each sentence, and before which sentences a document ends."""
    texts, ends, by = [], [], settings["documents_by"]
    lines = decode(block).split("\n")
    if not block.last:
        lines.pop()  # behind the newline of the last line, not a line
    for line in map(str.strip, lines):
        if settings["paragraphs"] and line:
            texts += _sentences(line, settings["language"])
        elif line:
            texts.append(line)
        if by == "lines" or (by == "blank" and not line):
            ends.append(len(texts))
    encodings = to_ids.encode_batch_fast(texts, add_special_tokens=False)
    counts = np.array([len(encoding) for encoding in encodings], np.int64)
    ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
    kept = np.concatenate([[0], np.cumsum(counts > 0)])
    tokens = np.fromiter(ids, layout.token_type(vocabulary), int(counts.sum()))
    return {
        "tokens": tokens,
        "unknown": np.count_nonzero(tokens == vocabulary.unk),
        "counts": counts[counts > 0],
        "ends": np.array([*kept[ends], *(kept[-1:] if block.last else [])], np.int64),
    }


def _sentences(paragraph: str, language: str) -> list[str]:
    from sentencex import segment  # type: ignore[attr-defined]

    return segment(language, paragraph)


def _holds_paragraphs(path: Path, language: str) -> bool:
    block = next(read_blocks(path, BLOCK))
    lines = [line for line in map(str.strip, decode(block).split("\n")) if line][:SAMPLE]
    several = sum(len(_sentences(line, language)) > 1 for line in lines)
    return several > PARAGRAPH_SHARE * len(lines)


def _write_part(path: Path, arrays: dict[str, np.ndarray]) -> None:
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)


def _merge(parts: list[Path], finished: Path, out: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Join the parts into the three flat files; returns the counts, and the files' sizes and hashes."""
    names: list[str] = [layout.TOKENS, layout.SENTENCES, layout.DOCUMENTS]
    sums = {name: hashlib.sha256() for name in names}
    sizes = dict.fromkeys(names, 0)
    for name, offsets in _offsets(parts):
        with (finished / name).open("ab") as file:
            raw = offsets.tobytes()
            file.write(raw)
        sums[name].update(raw)
        sizes[name] += len(raw)
    sentences, documents = sizes[layout.SENTENCES] // 8 - 1, sizes[layout.DOCUMENTS] // 8 - 1
    if not sentences:
        raise BadInputError("the input has no text, only empty lines; give files with documents.")
    if documents < 2:
        raise BadInputError(
            "the input has one document, and a random next sentence needs another one; "
            "separate documents by an empty line, or let each line be one (documents=lines)."
        )
    counts = {"tokens": 0, "unknown": 0}
    for path in parts:
        with np.load(path) as part:
            counts["tokens"] += len(part["tokens"])
            counts["unknown"] += int(part["unknown"])
    single = int(np.count_nonzero(np.diff(np.fromfile(finished / layout.DOCUMENTS, np.int64)) == 1))
    files = {name: {"bytes": sizes[name], "sha256": sums[name].hexdigest()} for name in names}
    return {**counts, "sentences": sentences, "documents": documents, "single": single}, files


def _offsets(parts: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """What to append to which file, part by part."""
    token, sentence, document = 0, 0, 0
    yield layout.SENTENCES, np.zeros(1, np.int64)
    yield layout.DOCUMENTS, np.zeros(1, np.int64)
    for path in parts:
        with np.load(path) as part:
            yield layout.TOKENS, part["tokens"]
            stops = token + np.cumsum(part["counts"])
            yield layout.SENTENCES, stops
            # empty documents end where the one before them did
            ends = np.unique(sentence + part["ends"])
        ends = ends[ends > document]
        yield layout.DOCUMENTS, ends
        sentence += len(stops)
        token, document = (stops[-1] if len(stops) else token), (ends[-1] if len(ends) else document)
