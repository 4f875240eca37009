"""Which words of an example BERT predicts, and what replaces them in the input; drawn on the device."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.types import Array, BadInputError

MASKED_SHARE = 0.8
KEPT_SHARE = 0.1


@dataclass(frozen=True)
class Masking:
    """BERT's masking, as the views of a training step; hashable, so that jit can take it as a static argument.

    Attributes:
        vocab_size: V; the random words are drawn from all of it.
        mask_id: the id of [MASK].
        special_ids: ids that are never predicted; BERT's are those of [CLS] and [SEP].
        share: share of an example's tokens, special ones included, to predict.
        max_predictions: P, the most an example predicts: one number, or `(length, P)` for each length L.
        whole_word: predict all the pieces of a word or none.
        continuation: for whole words, bool[V] where a word piece continues a word ("##ing"); stored as packed bits.
        seed: seed of the masks that are drawn once (`dupe_factor`).
        dupe_factor: None draws new masks in every step, from its key. A number k draws k masks for each example,
            from `seed`, and cycles through them over the epochs, as BERT's files of training data do.

    Raises:
        BadInputError: a value is out of its range.

    >>> masking = Masking(vocab_size=9, mask_id=4, special_ids=(2, 3), max_predictions=2)
    >>> row = dict(segments=[[0, 0, 0, 1, 1, 0]], lengths=[5], is_random=[0], example=[0], epoch=[0])
    >>> row = {name: jnp.array(value) for name, value in row.items()}
    >>> batch = masking(jax.random.key(0), tokens=jnp.array([[2, 7, 3, 8, 3, 0]]), **row)
    >>> print(batch["weights"], batch["positions"].shape)
    [[1. 0.]] (1, 2)
    """

    vocab_size: int
    mask_id: int
    special_ids: tuple[int, ...]
    share: float = 0.15
    max_predictions: int | tuple[tuple[int, int], ...] = ((128, 20), (512, 80))
    whole_word: bool = False
    continuation: Any = b""
    seed: int = 0
    dupe_factor: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "special_ids", tuple(int(word) for word in self.special_ids))
        if not isinstance(self.max_predictions, int):
            object.__setattr__(self, "max_predictions", tuple((int(a), int(b)) for a, b in self.max_predictions))
        if not isinstance(self.continuation, bytes):
            object.__setattr__(self, "continuation", _pack(self.continuation, self.vocab_size))
        if not all(0 <= word < self.vocab_size for word in (self.mask_id, *self.special_ids)):
            raise BadInputError(
                f"mask_id={self.mask_id}, special_ids={self.special_ids}: give ids in [0, {self.vocab_size})."
            )
        if not 0 < self.share <= 1:
            raise BadInputError(f"share={self.share}: give the share of the tokens to predict, in (0, 1].")
        counts = (
            [self.max_predictions] if isinstance(self.max_predictions, int) else dict(self.max_predictions).values()
        )
        if not counts or min(counts) < 1:
            raise BadInputError(f"max_predictions={self.max_predictions}: an example predicts at least one token.")
        if self.dupe_factor is not None and self.dupe_factor < 1:
            raise BadInputError(f"dupe_factor={self.dupe_factor}: give at least 1, or None for new masks each step.")
        if self.continuation and len(self.continuation) != -(-self.vocab_size // 8):
            raise BadInputError(f"continuation has {len(self.continuation)} bytes; give one bool for each word.")
        if self.whole_word and not self.continuation:
            raise BadInputError("whole_word needs continuation: give the vocabulary's flags of the pieces with ##.")

    def __call__(
        self,
        key: Array,
        *,
        tokens: Array,
        segments: Array,
        lengths: Array,
        is_random: Array,
        example: Array,
        epoch: Array,
    ) -> dict[str, Array]:
        """Mask a batch; the values do not depend on the number of devices.

        Args:
            key: PRNG key of the step; unused with a `dupe_factor`.
            tokens: int32[B, L], padding after `lengths`.
            segments: int32[B, L].
            lengths: int32[B], tokens of each example, the special ones counted.
            is_random: int32[B].
            example: int32[B], the example's number in its epoch's plan.
            epoch: int32[B].

        Returns:
            tokens int32[B, L], masked; segments, lengths and is_random unchanged; positions int32[B, P], rising,
            targets int32[B, P], the original tokens, and weights float32[B, P]. An example predicts
            `min(P, max(1, round(share * length)))` tokens, fewer if fewer can be predicted; the slots after them
            are 0. 80 % of the predicted tokens become [MASK], 10 % a random word, 10 % are unchanged.

        Raises:
            BadInputError: shapes that do not fit, a batch that does not divide over the devices, or a length without an
                entry in `max_predictions`.

        Reference: arXiv 1810.04805, section 3.1 and appendix A.1; google-research/bert `create_pretraining_data.py`.
        """
        rows = {"lengths": lengths, "is_random": is_random, "example": example, "epoch": epoch}
        if tokens.ndim != 2 or segments.shape != tokens.shape:
            raise BadInputError(f"tokens {tokens.shape} and segments {segments.shape} must both be [B, L], alike.")
        for name, array in rows.items():
            if array.shape != tokens.shape[:1]:
                raise BadInputError(f"{name} has shape {array.shape}; it must be {tokens.shape[:1]}, one an example.")
        sharding.check_batch_size(tokens.shape[0])
        masked = _mask_batch(self, self.predictions(tokens.shape[1]), key, tokens, lengths, example, epoch)
        return {**masked, "segments": segments, "lengths": lengths, "is_random": is_random}

    def predictions(self, length: int) -> int:
        """P for examples of `length` tokens.

        Raises:
            BadInputError: `max_predictions` has no entry for it.
        """
        if isinstance(self.max_predictions, int):
            return self.max_predictions
        counts = dict(self.max_predictions)
        if length not in counts:
            raise BadInputError(f"max_predictions={self.max_predictions} has no entry for length {length}; add one.")
        return counts[length]


def _pack(flags, vocab_size) -> bytes:
    flags = np.asarray(flags, bool)
    if flags.shape != (vocab_size,):
        raise BadInputError(f"continuation has shape {flags.shape}; it must be {(vocab_size,)}, one flag a word.")
    return np.packbits(flags).tobytes()


@partial(jax.jit, static_argnums=(0, 1))
def _mask_batch(masking, count, key, tokens, lengths, example, epoch):
    tokens, lengths = (sharding.shard(jnp.asarray(x, jnp.int32)) for x in (tokens, lengths))
    if masking.dupe_factor is None:
        keys = sharding.shard(jax.random.split(key, tokens.shape[0]))
    else:
        own_key = partial(_key_of_example, masking.seed, masking.dupe_factor)
        keys = jax.vmap(own_key)(*(sharding.shard(jnp.asarray(x)) for x in (example, epoch)))
    mask = jax.vmap(partial(_mask_example, masking, count))
    if sharding.has_mesh():
        # each device loops over its own examples until they are done, without asking the others
        mask = jax.shard_map(mask, in_specs=P(sharding.DATA), out_specs=P(sharding.DATA))
    return mask(keys, tokens, lengths)


def _key_of_example(seed, dupe_factor, example, epoch):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), example), epoch % dupe_factor)


def _mask_example(masking, count, key, tokens, length):
    size = tokens.shape[0]
    order_key, coin_key, word_key = jax.random.split(key, 3)
    special = jnp.any(tokens[:, None] == np.array(masking.special_ids, np.int32)[None, :], axis=1)
    candidate = (jnp.arange(size) < length) & ~special
    # a table of Python's own rounding, half to even on doubles, as in the official code
    wanted = np.array([min(count, max(1, round(masking.share * n))) for n in range(size + 1)], np.int32)
    wanted = jnp.asarray(wanted)[jnp.clip(length, 0, size)]
    word = _words(masking, tokens, candidate)
    chosen = candidate & _choose(jax.random.uniform(order_key, (size,)), word, candidate, wanted, masking.whole_word)
    coin = jax.random.uniform(coin_key, (size,))
    random = jax.random.randint(word_key, (size,), 0, masking.vocab_size, jnp.int32)
    shown = jnp.where(coin < MASKED_SHARE, masking.mask_id, jnp.where(coin < MASKED_SHARE + KEPT_SHARE, tokens, random))
    at = jnp.sort(jnp.where(chosen, jnp.arange(size), size))[:count]
    at = jnp.pad(at, (0, count - at.shape[0]), constant_values=size)
    real = at < size
    return {
        "tokens": jnp.where(chosen, shown, tokens),
        "positions": jnp.where(real, at, 0).astype(jnp.int32),
        "targets": jnp.where(real, tokens[jnp.minimum(at, size - 1)], 0),
        "weights": real.astype(jnp.float32),
    }


def _words(masking, tokens, candidate):
    """The number of the word that each candidate is a piece of; without whole words, of the token."""
    if not masking.whole_word:
        return jnp.arange(tokens.shape[0])
    flags = np.unpackbits(np.frombuffer(masking.continuation, np.uint8), count=masking.vocab_size).astype(bool)
    starts = candidate & ~jnp.asarray(flags)[tokens]
    # pieces before the first start are a word too; after a special token they belong to the word before it, as in
    # the official code
    return jnp.cumsum(starts)


def _choose(draws, word, candidate, wanted, whole_word):
    """True for the tokens of the first words in random order that fit into `wanted`; too long ones are skipped."""
    words = draws.shape[0] + 1
    sizes = jnp.zeros(words, jnp.int32).at[word].add(candidate.astype(jnp.int32))
    order = jnp.argsort(jnp.where(sizes > 0, jnp.pad(draws, (0, 1)), 2.0))
    sizes = sizes[order]
    taken = _first_fits(sizes, wanted) if whole_word else jnp.cumsum(sizes) <= wanted
    return jnp.zeros(words, bool).at[order].set(taken)[word]


def _first_fits(sizes, room):
    """Go through `sizes` in order and take each one that still fits: True where taken.

    Each round takes, among those that fit, as many as fit together, which is what going one by one takes; the first
    one left is then too long for good. Two or three rounds do, where one by one would be a loop over the tokens.
    """

    def fits(taken, room):
        return (sizes > 0) & ~taken & (sizes <= room)

    def more(state):
        return jnp.any(fits(*state))

    def take(state):
        taken, room = state
        fitting = fits(taken, room)
        new = fitting & (jnp.cumsum(jnp.where(fitting, sizes, 0)) <= room)
        return taken | new, room - jnp.sum(jnp.where(new, sizes, 0))

    return jax.lax.while_loop(more, take, (sizes < 0, room))[0]
