"""Batches: a pure function of (seed, step), whatever the step one starts at, the devices and the processes."""

import threading

import jax
import numpy as np
import pytest

from ssljax import sharding
from ssljax.text import batches as module
from ssljax.text.batches import Phase, batches, num_examples
from ssljax.text.corpus import hold_out, open_corpus
from ssljax.text.instances import assemble, plan
from ssljax.text.prepare import prepare
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError
from tests.text.corpora import random_corpus

CORPUS = random_corpus(20, seed=0)
TWO = (Phase(5, 32, 8), Phase(100, 64, 8))
PARTS = ("tokens", "segments", "lengths", "is_random", "example", "epoch")


def host(stream):
    return [{name: np.asarray(values) for name, values in batch.items()} for batch in stream]


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def epoch_steps(phase, seed=0):
    return num_examples(CORPUS, phase, seed) // phase.batch_size


def test_shapes_through_two_phases():
    found = list(batches(CORPUS, TWO, num_steps=8))
    assert [batch["tokens"].shape for batch in found] == [(8, 32)] * 5 + [(8, 64)] * 3
    for batch in found:
        assert set(batch) == set(PARTS)
        assert {values.dtype for values in batch.values()} == {np.dtype(np.int32)}
        assert batch["segments"].shape == batch["tokens"].shape
        assert all(batch[name].shape == (8,) for name in PARTS[2:])


def test_a_batch_is_its_rows_of_the_plan():
    steps = epoch_steps(TWO[0])
    phases = (Phase(3 * steps, 32, 8), Phase(9, 64, 8))
    found = host(batches(CORPUS, phases, seed=0, num_steps=3 * steps + 2))
    for step, batch in enumerate(found):
        number, within = (0, step) if step < 3 * steps else (1, step - 3 * steps)
        length = phases[number].length
        epoch = within // epoch_steps(phases[number])
        rows = plan(CORPUS, length=length, seed=0, epoch=epoch)[batch["example"]]
        assert (batch["epoch"] == epoch).all()
        for name, values in assemble(CORPUS, rows, length).items():
            np.testing.assert_array_equal(batch[name], values)


@pytest.mark.parametrize("start", [1, 4, 5, 6, 40])
def test_resuming_goes_on_exactly(start):
    whole = host(batches(CORPUS, TWO, seed=3, num_steps=45))
    assert_same(whole[start:], host(batches(CORPUS, TWO, seed=3, start_step=start, num_steps=45)))


def test_seeds_differ_and_the_same_seed_does_not():
    one, again, other = (host(batches(CORPUS, TWO, seed=seed, num_steps=2)) for seed in (1, 1, 2))
    assert_same(one, again)
    assert not np.array_equal(one[0]["tokens"], other[0]["tokens"])


def test_a_pass_takes_each_instance_at_most_once_and_the_next_one_another_order():
    phase = Phase(1000, 32, 8)
    steps = epoch_steps(phase)
    found = host(batches(CORPUS, (phase,), num_steps=3 * steps))
    assert [batch["epoch"][0] for batch in found] == [0] * steps + [1] * steps + [2] * steps
    examples = [np.concatenate([batch["example"] for batch in found[k * steps : (k + 1) * steps]]) for k in range(3)]
    assert len(set(examples[0])) == len(examples[0])
    assert not np.array_equal(examples[0], examples[1])
    for epoch, taken in enumerate(examples):
        size = len(plan(CORPUS, length=32, seed=0, epoch=epoch))
        assert taken.max() < size
        # a smaller pass than the first begins again, none sooner
        assert len(set(taken)) == min(size, len(taken))


def test_a_pass_smaller_than_the_first_begins_again():
    phase = Phase(1000, 32, 1)
    first = num_examples(CORPUS, phase, 0)
    sizes = [len(plan(CORPUS, length=32, seed=0, epoch=epoch)) for epoch in range(30)]
    epoch = int(np.argmin(sizes))
    assert sizes[epoch] < first
    found = host(batches(CORPUS, (phase,), start_step=epoch * first, num_steps=(epoch + 1) * first))
    counts = np.bincount([batch["example"][0] for batch in found])
    assert (len(counts), counts.min(), counts.sum()) == (sizes[epoch], first // sizes[epoch], first)
    assert counts.max() == counts.min() + 1


def test_passes_come_again_with_a_dupe_factor():
    phase = Phase(1000, 32, 8)
    steps = epoch_steps(phase)
    found = host(batches(CORPUS, (phase,), num_steps=3 * steps, dupe_factor=2))
    rows = [{}, {}, {}]
    for step, batch in enumerate(found):
        rows[step // steps] |= dict(zip(batch["example"].tolist(), batch["tokens"].tolist(), strict=True))
    shared = rows[0].keys() & rows[2].keys()
    assert len(shared) > 10
    assert all(rows[0][example] == rows[2][example] for example in shared)
    assert any(rows[0][example] != rows[1][example] for example in rows[0].keys() & rows[1].keys())
    # in another order, and counted on
    assert not np.array_equal(found[0]["example"], found[2 * steps]["example"])
    assert (found[2 * steps]["epoch"] == 2).all()


def test_devices_do_not_matter(each_mesh):
    found = list(batches(CORPUS, TWO, seed=1, num_steps=7))
    if each_mesh:
        assert all(len(values.sharding.device_set) == each_mesh for values in found[0].values())
    with sharding.use_mesh(sharding.make_mesh(1)):
        assert_same(host(found), host(batches(CORPUS, TWO, seed=1, num_steps=7)))


def test_processes_read_their_own_rows(monkeypatch):
    whole = host(batches(CORPUS, TWO, num_steps=7))
    read = []
    original = module.assemble
    monkeypatch.setattr(
        module, "assemble", lambda corpus, rows, length: read.append(len(rows)) or original(corpus, rows, length)
    )
    halves = []
    for half in (slice(0, 4), slice(4, 8)):
        monkeypatch.setattr(module, "local_rows", lambda size, half=half: np.arange(size)[half])
        halves.append(host(batches(CORPUS, TWO, num_steps=7)))
    assert_same(whole, [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*halves, strict=True)])
    assert set(read) == {4}


def test_batches_are_made_meanwhile_and_one_at_a_time(monkeypatch):
    threads, original = [], module.assemble
    monkeypatch.setattr(module, "assemble", lambda *args: threads.append(threading.current_thread()) or original(*args))
    stream = batches(CORPUS, TWO, num_steps=50)
    next(stream)
    next(stream)
    assert len(threads) <= 2 + module.AHEAD
    assert threading.main_thread() not in threads
    assert len(set(threads)) == 1
    stream.close()  # type: ignore[attr-defined]
    assert not threads[0].is_alive()
    assert list(batches(CORPUS, TWO, start_step=5, num_steps=5)) == []


def test_processes_make_the_same_batches_and_tell_of_a_damaged_corpus(tmp_path):
    rng, vocabulary = np.random.default_rng(0), Vocabulary((*SPECIALS, *map(str, range(50))))
    documents = [[" ".join(map(str, rng.integers(0, 50, 12))) for _ in range(9)] for _ in range(12)]
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents))
    prepare([tmp_path / "text.txt"], vocabulary, tmp_path / "out")
    corpus = hold_out(open_corpus(tmp_path / "out"), 6)[0]
    drawn = {"start_step": 2, "num_steps": 30}
    assert_same(host(batches(corpus, TWO, workers=1, **drawn)), host(batches(corpus, TWO, **drawn)))
    np.full_like(corpus.tokens, 60_000).tofile(tmp_path / "out" / "tokens.bin")
    with pytest.raises(BadInputError, match="is damaged: it holds the token 60000"):
        next(batches(corpus, TWO, num_steps=9, workers=1))


@pytest.mark.parametrize(
    ("phases", "options", "sentence"),
    [
        ((Phase(1, 32, 10_000),), {}, "batch_size=10000 is more than the"),
        ((Phase(9, 32, 8), Phase(1, 64, 10_000)), {}, "batch_size=10000 is more than the"),
        ((Phase(1, 32, 0),), {}, "batch_size=0 is too small; use at least 1"),
        ((), {}, "0 phases"),
        (TWO, {"start_step": -1}, "start_step=-1"),
        (TWO, {"dupe_factor": 0}, "dupe_factor=0"),
        ((Phase(1, 4, 8),), {}, "length=4"),
    ],
)
def test_what_is_refused_before_the_first_batch(phases, options, sentence):
    with pytest.raises(BadInputError, match=sentence):
        batches(CORPUS, phases, **({"num_steps": 20} | options))


def test_a_batch_must_split_over_the_devices():
    words = "batch_size=6 does not divide over the 4 devices; use a multiple of 4, such as 4 or 8"
    with jax.set_mesh(sharding.make_mesh(4)), pytest.raises(BadInputError, match=words):
        batches(CORPUS, (Phase(1, 32, 6),), num_steps=1)
