"""BERT's training step with both losses: ssljax against Hugging Face's BertForPreTraining."""

from typing import Any

from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import autocast, compiled, jax_steps, torch_steps

WORDS, RATE, DECAY, DROPOUT = 30522, 1e-4, 0.01, 0.1
PREDICTIONS = {128: 20, 512: 76}


def sides(gpu: bool, size: str, length: int) -> list[Side]:
    """One of `models.bert.SIZES` at a length."""
    batch = (
        {128: 256, 512: 64}[length] if gpu else {("mini", 128): 16, ("base", 128): 4, ("base", 512): 1}[size, length]
    )
    steps = 10 if gpu or size == "mini" else 1
    options = {"length": length, "batch": batch, "steps": steps, "gpu": gpu, "words": WORDS}
    theirs = {**options, "shape": their_shape(size)}
    return [
        Side("ssljax", ours, {**options, "size": size}),
        Side("transformers eager", peer, theirs),
        Side("transformers compiled", peer, {**theirs, "inductor": True}),
    ]


def their_shape(size: str) -> dict[str, int]:
    """The sizes in transformers' names; the peer's process need not import ssljax for them."""
    from ssljax.models.bert import SIZES

    shape = SIZES[size]
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
    }


def masked_batch(length: int, batch: int, words: int = WORDS) -> dict[str, Any]:
    """A batch as the masking returns it: full sequences with the maximum number of predictions."""
    import numpy as np

    rng, count = np.random.default_rng(0), PREDICTIONS.get(length, 1)
    positions = np.sort(rng.permuted(np.tile(np.arange(1, length - 1), (batch, 1)), axis=1)[:, :count], axis=1)
    segments = np.tile(np.arange(length) >= length // 2, (batch, 1))
    arrays = {
        "tokens": rng.integers(min(1000, words // 2), words, (batch, length)),
        "segments": segments,
        "lengths": np.full(batch, length),
        "is_random": rng.integers(0, 2, batch),
        "positions": positions,
        "targets": rng.integers(min(1000, words // 2), words, (batch, count)),
    }
    arrays = {name: values.astype(np.int32) for name, values in arrays.items()}
    return {**arrays, "weights": np.ones((batch, count), np.float32)}


def our_method(size: str, gpu: bool, words: int = WORDS) -> tuple[Any, Any]:
    """The method and its optimiser."""
    import dataclasses

    import jax.numpy as jnp

    from ssljax import optim
    from ssljax.methods import bert
    from ssljax.models import bert as models
    from ssljax.text import task as text

    shape = dataclasses.replace(models.SIZES[size], vocab_size=words, dropout=DROPOUT, attention_dropout=DROPOUT)
    parts = text.build(shape, jnp.bfloat16 if gpu else jnp.float32)
    method = bert.bert(parts.encoder, parts.mlm, parts.nsp, word_table=models.word_table)
    return method, optim.bert_adamw(RATE, weight_decay=DECAY)


def ours(size: str, length: int, batch: int, steps: int, gpu: bool, words: int = WORDS) -> Ready:
    """The train step of ssljax."""
    import jax.numpy as jnp

    method, optimizer = our_method(size, gpu, words)
    arrays = {name: jnp.asarray(values) for name, values in masked_batch(length, batch, words).items()}
    return jax_steps(method, lambda key, **batch: batch, optimizer, arrays, steps=steps, work=batch * length)


def peer(
    shape: dict[str, int],
    length: int,
    batch: int,
    steps: int,
    gpu: bool,
    words: int = WORDS,
    inductor: bool = False,
) -> Ready:
    """The same step by transformers and torch's AdamW; its vocabulary's logits are those of all tokens."""
    torch, transformers = need("torch"), need("transformers")
    place = "cuda" if gpu else "cpu"
    config = transformers.BertConfig(
        vocab_size=words,
        **shape,
        hidden_act="gelu_new",
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    net = transformers.BertForPreTraining(config).to(place).train()
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY, fused=gpu)
    arrays = {name: torch.from_numpy(values).to(place) for name, values in masked_batch(length, batch, words).items()}
    labels = torch.full((batch, length), -100, device=place)
    labels.scatter_(1, arrays["positions"].long(), arrays["targets"].long())
    inputs = {
        "input_ids": arrays["tokens"].long(),
        "token_type_ids": arrays["segments"].long(),
        "attention_mask": torch.ones((batch, length), dtype=torch.long, device=place),
        "labels": labels,
        "next_sentence_label": arrays["is_random"].long(),
    }
    run = compiled(net) if inductor else net

    def step():
        with autocast(gpu):
            loss = run(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    attention = getattr(net.config, "_attn_implementation", "")
    ready = torch_steps(step, steps=steps, work=batch * length, gpu=gpu)
    return ready._replace(facts=ready.facts | {"attention": attention})
