"""Files with a few random bytes changed: they load with the shapes they had, or are refused in one sentence."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.interop import huggingface, torchvision
from ssljax.models.bert import bert, mlm_head, word_table
from ssljax.models.bert_layers import BertShape
from ssljax.types import BadInputError
from ssljax.vision.sources import open_source
from tests.interop.test_damaged_files import resnet_weights

MUTATIONS = 300
BERT = BertShape(vocab_size=11, hidden=4, layers=1, heads=2, intermediate=6, positions=5)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_weights():
    ids = jnp.zeros((1, 1), jnp.int32)
    encoder = bert(BERT).init(jax.random.key(0), ids, ids, ids[0])[0]
    hidden = jnp.zeros((1, 1, BERT.hidden))
    return {"encoder": encoder, "mlm": mlm_head(BERT).init(jax.random.key(1), hidden, word_table(encoder))[0]}


def mutated(content, rng):
    """Some bytes flipped, taken out, put in, or the end cut off; and the first place where the two differ."""
    damaged, kind = bytearray(content), rng.integers(8)
    # headers are where the danger is, so half of the places are near the beginning or the end
    place = int(rng.choice([rng.integers(len(content)), rng.integers(min(len(content), 3000))]))
    place = len(content) - 1 - place if rng.integers(4) == 0 else place
    if kind == 0:
        del damaged[place:]
    elif kind == 1:
        damaged[place:place] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == 2:
        del damaged[place : place + int(rng.integers(1, 9))]
    elif kind == 3:
        damaged[place : place + 8] = struct.pack("<q", int(rng.integers(-(1 << 62), 1 << 62)) >> int(rng.integers(62)))
    elif kind == 4:
        damaged[place] = rng.integers(256)
    else:
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def loads_or_refuses(path, read, wanted, count, seed, data_from):
    """How many of `count` mutations load; those have the same shapes, and other values only where data is other."""
    content, rng, sentences, loaded = path.read_bytes(), np.random.default_rng(seed), [], 0
    for _ in range(count):
        damaged = mutated(content, rng)
        path.write_bytes(damaged)
        try:
            found = read()
        except BadInputError as error:
            sentences.append(str(error))
            continue
        loaded += 1
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        for have, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert (np.shape(have), np.asarray(have).dtype) == (np.shape(want), np.asarray(want).dtype)
        if damaged[data_from:] == content[data_from:] and len(damaged) == len(content):
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
    path.write_bytes(content)
    assert [said for said in sentences if str(path.parent) not in said or "\n" in said] == []
    return loaded


def test_fuzzed_safetensors(tmp_path):
    weights, path = resnet_weights(), tmp_path / "r.safetensors"
    torchvision.save_safetensors(path, *weights)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    like = jax.eval_shape(lambda: weights)
    loaded = loads_or_refuses(path, lambda: torchvision.load_safetensors(path, like), weights, MUTATIONS, 1, 8 + length)
    assert 0 < loaded < MUTATIONS


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.filterwarnings("ignore:the checkpoint has no pooler")
def test_fuzzed_checkpoints(file, tmp_path):
    weights = bert_weights()
    huggingface.save_pretrained(tmp_path / "b", weights, BERT, WORDS, True)
    path = tmp_path / "b" / file
    (length,) = struct.unpack("<Q", (tmp_path / "b" / "model.safetensors").read_bytes()[:8])
    data_from = 8 + length if file == "model.safetensors" else 1 << 30
    loaded = loads_or_refuses(
        path, lambda: huggingface.load_pretrained(tmp_path / "b")[0], weights, MUTATIONS, 2, data_from
    )
    assert 0 < loaded < MUTATIONS


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_fuzzed_arrays_load_the_same_or_not_at_all(save, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.npz"
    save(path, train_images=rng.integers(0, 256, (6, 5, 5), np.uint8), train_labels=np.arange(6) % 2)

    def read():
        source = open_source(f"arrays:{path}", "train")
        return source.class_names, list(source)

    # every byte of an array has a checksum, so that all that loads is what was written
    loaded = loads_or_refuses(path, read, read(), MUTATIONS, 3, data_from=1 << 30)
    assert loaded < MUTATIONS
