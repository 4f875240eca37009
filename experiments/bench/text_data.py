"""Text on its way to the device: masked instances, and tokens of a prepared corpus."""

import functools
import tempfile
from pathlib import Path
from typing import Any

from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import WORKERS, torch_loader

LENGTH, BATCH, BATCHES = 128, 32, 20


def instances(gpu: bool, text: str) -> list[Side]:
    """Whole-word-masked instances of 128 tokens."""
    del gpu
    return [
        Side("ssljax", our_instances, {"text": text}),
        Side(f"transformers' collator, {WORKERS} workers", their_instances, {"text": text}),
    ]


def tokens(gpu: bool, text: str) -> list[Side]:
    """Text to the ids of words."""
    del gpu
    return [Side("ssljax", our_tokens, {"text": text}), Side("transformers", their_tokens, {"text": text})]


@functools.cache
def lines(text: str, limit: int = 2_000_000) -> tuple[str, ...]:
    """The first lines of a file, or the language reference of this Python; empty ones end documents."""
    from ssljax.text import python_topics
    from ssljax.text.reading import decode, read_blocks

    if not text:
        return tuple(python_topics.as_text(python_topics.python_topics()).splitlines())
    return tuple(decode(next(iter(read_blocks(text, limit)))).splitlines())


def vocabulary(text: str) -> Any:
    """8,000 pieces, trained on the lines."""
    from ssljax.text.vocabulary import train_vocabulary

    return train_vocabulary(iter(lines(text)), 8000)


def _written(folder: str, text: str) -> str:
    path = Path(folder) / "text.txt"
    path.write_text("\n".join(lines(text)) + "\n")
    return str(path)


def our_instances(text: str) -> Ready:
    """Pairs of segments drawn from the prepared corpus, masked on the device by whole words."""
    import jax

    from ssljax.text import batches, corpus, prepare
    from ssljax.text.masking import Masking

    folder, words = tempfile.mkdtemp(prefix="bench-text-"), vocabulary(text)
    prepare.prepare([_written(folder, text)], words, f"{folder}/prepared")
    prepared = corpus.open_corpus(f"{folder}/prepared")
    specials = (words.cls, words.sep)
    masking = Masking(len(words), words.mask, specials, whole_word=True, continuation=words.continuation)
    masked, key = jax.jit(lambda key, batch: masking(key, **batch)), jax.random.key(0)
    phases = [batches.Phase(BATCHES, LENGTH, BATCH)]

    def round():
        out = None
        for step, batch in enumerate(batches.batches(prepared, phases, num_steps=BATCHES)):
            out = masked(jax.random.fold_in(key, step), batch)
        jax.block_until_ready(out)

    return Ready(round, work=BATCHES * BATCH)


def their_instances(text: str) -> Ready:
    """Rows of 128 tokens in a list, masked by transformers' collator for whole words; no pairs of segments."""
    transformers = need("transformers")
    fast = _their_tokenizer(text, transformers)
    stream = fast(" ".join(filter(None, lines(text))), add_special_tokens=False, return_offsets_mapping=True)
    room, wanted = LENGTH - 2, BATCHES * BATCH
    starts = [at % (len(stream["input_ids"]) - room) for at in range(0, wanted * room, room)]
    data = []
    for at in starts:
        ids, offsets = (stream[name][at : at + room] for name in ("input_ids", "offset_mapping"))
        # the collator knows words by neighbouring offsets, and special words by empty ones
        data.append(
            {
                "input_ids": [fast.cls_token_id, *ids, fast.sep_token_id],
                "offset_mapping": [(0, 0), *offsets, (0, 0)],
                "special_tokens_mask": [1, *[0] * room, 1],
            }
        )
    collator = transformers.DataCollatorForLanguageModeling(tokenizer=fast, whole_word_mask=True, mlm_probability=0.15)
    drawn = torch_loader(data, batch_size=BATCH, shuffle=True, collate_fn=collator)

    def round():
        for _ in drawn:
            pass

    return Ready(round, work=wanted, facts={"data": "a list; the library `datasets` is not used"})


def our_tokens(text: str) -> Ready:
    """`prepare`: sentences, tokens, offsets and hashes, to files."""
    import itertools

    from ssljax.text import prepare

    folder, words, numbers = tempfile.mkdtemp(prefix="bench-text-"), vocabulary(text), itertools.count()
    source = _written(folder, text)

    def once() -> int:
        return prepare.prepare([source], words, f"{folder}/{next(numbers)}", paragraphs=False)["tokens"]

    def round():
        once()

    return Ready(round, work=once())


def their_tokens(text: str) -> Ready:
    """The fast tokenizer on the same lines, to lists in memory."""
    fast, filled = _their_tokenizer(text, need("transformers")), list(filter(None, lines(text)))

    def round():
        fast(filled, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)

    return Ready(round, work=sum(map(len, fast(filled, add_special_tokens=False)["input_ids"])))


def _their_tokenizer(text: str, transformers: Any) -> Any:
    from ssljax.text.vocabulary import write_vocabulary

    path = Path(tempfile.mkdtemp(prefix="bench-text-")) / "vocab.txt"
    write_vocabulary(vocabulary(text), path)
    return transformers.BertTokenizerFast(vocab=str(path), model_max_length=10**9)
