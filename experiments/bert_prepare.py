"""BERT's text: from files to token arrays, what the bert experiments train on.

Documents are separated by an empty line. Lines are sentences, or paragraphs that are split into sentences. Files may be
compressed (.xz, .gz, .bz2, .zst). The vocabulary is a given one, such as that of bert-base-uncased, or is learned from
the files. The same command resumes a stopped run; OUT appears when it is complete.

Paper: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv 1810.04805
Figure: none
Command: python -m experiments.bert_prepare --input enwiki.txt.xz --vocab vocab.txt --out data/enwiki
Cost: 100 MB of Wikipedia's text take about a minute on two CPU cores and 0.4 GB of memory, whatever the size of the
    corpus; learning 30,522 words from it takes another minute
Differs: a document ends with its file. Google's learner of vocabularies was never published; `tokenizers`' is used.
"""

import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Literal

from ssljax.cli.arguments import parse
from ssljax.cli.experiments import refuse
from ssljax.run import ranges
from ssljax.run.ledger import paragraphs
from ssljax.text.corpus import notes
from ssljax.text.languages import check_language
from ssljax.text.prepare import Documents, Progress, check_paths, prepare
from ssljax.text.reading import read_lines, text_files
from ssljax.text.vocabulary import Vocabulary, read_vocabulary, train_vocabulary
from ssljax.types import BadInputError

EVERY_S = 5


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of the preparation."""

    input: tuple[Path, ...]
    """Text in UTF-8: files (plain, .xz, .gz, .bz2 or .zst), folders of them, or patterns such as '*.txt'."""
    out: Path
    """Output directory; must be new or empty."""
    vocab: Path | None = None
    """Vocabulary: one word per line, or a tokenizer.json of WordPiece; alternatively give --train-vocab."""
    train_vocab: int | None = None
    """Size of a vocabulary to learn from the input; alternatively give --vocab."""
    cased: bool = False
    """Keep case and accents."""
    keep_accents: bool = False
    """Keep accents, such as German umlauts, where case is not kept."""
    paragraphs: Literal["auto", "yes", "no"] = "auto"
    """Split lines into sentences; auto: if a tenth of the first lines have several sentences."""
    language: str = "en"
    """Language of the sentence splitter, such as en or de."""
    documents: Documents = "blank"
    """What a document is: what is between blank lines, each of the lines, or each of the files."""


def run(config: Config) -> None:
    """Prepare the corpus and print its counts."""
    ranges.check(config)
    if (config.vocab is None) == (config.train_vocab is None):
        raise BadInputError("give either --vocab FILE or --train-vocab NUMBER.")
    files, passed_over = text_files(config.input)
    check_paths(files, config.out)
    check_language(config.language)
    for note in passed_over:
        print(note)
    split = {"auto": "auto", "yes": True, "no": False}[config.paragraphs]
    manifest = prepare(
        files,
        _vocabulary(config, files),
        config.out,
        paragraphs=split,  # type: ignore[arg-type]
        language=config.language,
        documents=config.documents,
        progress=_reporter(),
    )
    described = "in paragraphs" if manifest["paragraphs"] else "one per line"
    unknown = 100 * manifest["unknown"] / manifest["tokens"]
    print(
        f"{config.out}: {manifest['documents']:,} documents, {manifest['sentences']:,} sentences ({described}), "
        f"{manifest['tokens']:,} tokens of {manifest['words']:,} words, {unknown:.2f} % of them [UNK]"
    )
    for note in notes(manifest):
        print(note)


def _vocabulary(config: Config, files: list[Path]) -> Vocabulary:
    case = (not config.cased, False if config.keep_accents else None)
    if config.vocab is not None:
        return read_vocabulary(config.vocab, *case)
    assert config.train_vocab is not None
    print(f"Learning {config.train_vocab:,} words ...", file=sys.stderr)
    lines = itertools.chain.from_iterable(map(read_lines, files))
    return train_vocabulary(lines, config.train_vocab, *case)


def _reporter() -> Progress:
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > EVERY_S:
            last = now
            print(f"{done / 1e6:,.0f} MB of text, {done / 1e6 / (now - start):.1f} MB/s", file=sys.stderr)

    return report


def main() -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    config = parse(Config, prog="python -m experiments.bert_prepare", description=paragraphs(__doc__ or ""))
    try:
        run(config)
    except BadInputError as error:
        sys.exit(refuse(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command resumes it.")


if __name__ == "__main__":
    main()
