"""Checkpoints are restored bit for bit on any number of devices; digests; what is kept; what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.train import checkpoint
from ssljax.train.saving import digest, manifest, retention
from ssljax.types import BadInputError
from tests.train import states
from tests.train.test_processes import run_two

KINDS = ["float32", "bfloat16", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32", "bool"]


def saved(path, *all_states, **options):
    checkpoints = checkpoint.open_checkpoints(str(path), **options)
    for state in all_states:
        checkpoint.save(checkpoints, state)
    checkpoint.wait_until_finished(checkpoints)
    return checkpoints


def laid_out(state, devices):
    """The state on so many devices, its queue split over them, without or under their mesh."""
    if devices is None:
        return state
    return sharding.gather(state).replace(aux={"queue": sharding.shard(state.aux["queue"]), "nothing": {}})


@pytest.mark.parametrize("name", ["every kind", "moco", "bert"])
def test_a_state_comes_back_bit_for_bit(tmp_path, name):
    state = states.of(name, step=12)
    checkpoints = saved(tmp_path, state)
    found = checkpoint.restore(checkpoints, states.of(name, step=1))
    assert found is not None
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert states.same(found, state)
    assert checkpoint.all_steps(checkpoints) == [12]
    checkpoint.close(checkpoints)


def test_nothing_saved_is_none(tmp_path):
    assert checkpoint.restore(checkpoint.open_checkpoints(str(tmp_path)), states.every_kind()) is None
    assert checkpoint.latest_metadata(str(tmp_path)) is None


@pytest.mark.parametrize("devices", [None, 4])
def test_the_step_after_a_save_may_overwrite_the_state(tmp_path, devices):
    advance = jax.jit(
        lambda state: state.replace(step=state.step + 1, params={"w": state.params["w"] * 1.5}),
        donate_argnums=0,
        out_shardings=P() if devices else None,
    )
    with sharding.use_mesh(devices and sharding.make_mesh(devices)):
        state = sharding.gather(states.every_kind().replace(params={"w": jnp.ones(300_000)}))
        checkpoints = checkpoint.open_checkpoints(str(tmp_path), keep=9)
        for _ in range(4):
            checkpoint.save(checkpoints, state)
            for _ in range(3):
                state = advance(state)
        checkpoint.wait_until_finished(checkpoints)
        assert checkpoint.all_steps(checkpoints) == [0, 3, 6, 9]
        found = checkpoint.restore(checkpoints, state)
    assert found is not None
    np.testing.assert_array_equal(found.params["w"], np.full(300_000, np.float32(1.5) ** 9))


@pytest.mark.parametrize("before", [None, 1, 2, 4, 8])
def test_a_state_moves_to_any_number_of_devices(tmp_path, before):
    state = states.every_kind(step=5)
    with sharding.use_mesh(before and sharding.make_mesh(before)):
        checkpoint.close(saved(tmp_path, laid_out(state, before)))
    for after in [None, 1, 2, 4, 8]:
        with sharding.use_mesh(after and sharding.make_mesh(after)):
            like = laid_out(states.every_kind(step=1), after)
            found = checkpoint.restore(checkpoint.open_checkpoints(str(tmp_path)), like)
            assert states.same(found, state)
            assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, found, like)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_does_not_depend_on_the_layout(kind, each_mesh):
    raw = np.random.default_rng(0).integers(0, 256, (16, 700), np.uint8)
    array = raw.view(kind) if kind != "bool" else raw > 99
    # device_put, not reshard: XLA's collectives may change the payload of a bfloat16 NaN
    split = jax.device_put(array, sharding.data_sharding())
    everywhere = jax.device_put(array, sharding.replicated_sharding())
    assert digest.digest(split) == digest.digest(everywhere) == digest.host_digest(array)
    of_parts = digest.sharded_digest(digest.sharded_sums(split))
    assert of_parts == digest.sharded_digest(digest.sharded_sums(everywhere)) == digest.digest(array, like=of_parts)
    assert of_parts != digest.host_digest(array)


@pytest.mark.parametrize("size", [1, 7, 8, 1000, 20_001, 600_004])
def test_every_flipped_bit_changes_a_digest(size):
    rng = np.random.default_rng(size)
    data = rng.integers(0, 256, size, np.uint8)
    places = {(0, 0), (size - 1, 7), *((int(rng.integers(size)), int(rng.integers(8))) for _ in range(60))}
    digests = {digest.host_digest(data)}
    for place, bit in places:
        changed = data.copy()
        changed[place] ^= 1 << bit
        digests.add(digest.host_digest(changed))
    assert len(digests) == len(places) + 1


@pytest.mark.parametrize("algorithm", [digest.host_digest, lambda x: digest.sharded_digest(digest.sharded_sums(x))])
@pytest.mark.parametrize("fill", ["zeros", "random"])
def test_damage_that_sums_miss_changes_a_digest(algorithm, fill):
    """Two sign bits, swapped words and blocks, -0.0 for 0.0, another NaN: what a plain or linear sum may miss."""
    rng = np.random.default_rng(1)
    words = np.zeros(400_000, np.uint32) if fill == "zeros" else rng.integers(0, 2**32, 400_000, np.uint32)
    variants = []
    for i, j in [(0, 1), (0, 2), (5, 131_077), *rng.integers(0, words.size, (20, 2))]:
        for bit in (31, 30, 0):
            two = words.copy()
            two[[i, j]] ^= np.uint32(1 << bit)
            variants.append(two)
    if fill == "random":
        swapped, moved = words.copy(), words.copy()
        swapped[[3, 4]] = swapped[[4, 3]]
        moved[:131_072], moved[131_072:262_144] = words[131_072:262_144], words[:131_072]
        variants += [swapped, moved, np.roll(words, 1), np.where(np.arange(words.size) < 999, np.uint32(0), words)]
    digests = [algorithm(variant.view(np.float32)) for variant in [words, *variants]]
    distinct = {variant.tobytes() for variant in [words, *variants]}
    assert len(set(digests)) == len(distinct) > 10


def test_a_digest_counts_bits_not_values():
    assert digest.digest(np.zeros(1, np.float32)) != digest.digest(-np.zeros(1, np.float32))
    nans = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)
    assert len({digest.digest(nans[i : i + 1]) for i in range(3)}) == 3


@pytest.mark.parametrize(
    ("saved_steps", "options", "kept"),
    [
        ({1: {}, 2: {}, 3: {}}, {"keep": 2}, {2, 3}),
        ({1: {}, 2: {}, 3: {}}, {"keep": 0}, {3}),
        ({10: {}, 15: {}, 20: {}, 25: {}, 26: {}}, {"keep": 1, "keep_every": 10}, {10, 20, 26}),
        ({1: {"knn": 9.0}, 2: {"knn": 3.0}, 3: {"knn": 5.0}}, {"keep": 1, "best": ("knn", "max")}, {1, 3}),
        ({1: {"loss": 9.0}, 2: {"loss": 3.0}, 3: {"loss": 5.0}}, {"keep": 1, "best": ("loss", "min")}, {2, 3}),
        ({1: {"knn": 7.0}, 2: {"knn": 7.0}, 3: {}}, {"keep": 1, "best": ("knn", "max")}, {2, 3}),
        ({1: {"knn": float("nan")}, 2: {"knn": 1.0}, 3: {}}, {"keep": 1, "best": ("knn", "max")}, {2, 3}),
        ({1: {}, 2: {}}, {"keep": 1, "best": ("knn", "max")}, {2}),
        ({}, {"keep": 2}, set()),
    ],
)
def test_which_steps_are_kept(saved_steps, options, kept):
    assert retention.steps_to_keep(saved_steps, **options) == kept


def test_saving_keeps_what_is_asked_for(tmp_path):
    checkpoints = checkpoint.open_checkpoints(str(tmp_path), keep=2, keep_every=4, best=("knn", "max"))
    for step, knn in enumerate([10.0, 90.0, 20.0, 30.0, float("nan"), 50.0, 60.0], start=1):
        checkpoint.save(checkpoints, states.every_kind(step), {"knn": knn})
    checkpoint.wait_until_finished(checkpoints)
    assert checkpoint.all_steps(checkpoints) == [2, 4, 6, 7]
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["2", "4", "6", "7"]


def test_the_manifest_describes_what_was_saved(tmp_path):
    metadata = {"experiment": "moco", "config": {"seed": 3}, "versions": {"jax": "0.10"}, "data": None}
    checkpoints = saved(tmp_path, states.every_kind(4), metadata=metadata)
    assert checkpoint.latest_metadata(str(tmp_path)) == metadata
    body = json.loads((tmp_path / "checkpoints/4/manifest.json").read_text())["manifest"]
    assert body == manifest.read(checkpoints.directory / "4")
    assert body["step"] == 4
    assert body["leaves"]["params/bfloat16/x"][0] == "bfloat16[3, 5]"
    assert body["leaves"]["key"][0] == "uint32[2]"
    assert all((tmp_path / "checkpoints/4" / name).stat().st_size == size for name, (size, _) in body["files"].items())


def test_a_committed_step_is_not_overwritten(tmp_path):
    first = states.every_kind(3)
    checkpoints = saved(tmp_path, first, states.fill(first, seed=9, step=3))
    assert states.same(checkpoint.restore(checkpoints, first), first)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: states.every_kind(width=6),
            r"opt_state/1/0/x is int8\[3, 5\] in the checkpoint and int8\[3, 6\] here",
        ),
        (lambda: states.every_kind().replace(aux={}), "aux/queue is float32.* in the checkpoint and missing here"),
        (
            lambda: states.every_kind().replace(step=jnp.uint32(0)),
            r"step is int32\[\] in the checkpoint and uint32\[\] here",
        ),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(tmp_path, other, message):
    checkpoints = saved(tmp_path, states.every_kind(1), states.every_kind(2))
    with pytest.raises(BadInputError, match=f"/2 does not match this run: {message}; .* another --workdir"):
        checkpoint.restore(checkpoints, other())
    assert checkpoint.all_steps(checkpoints) == [1, 2]


def test_unfinished_saves_are_removed_and_their_step_can_be_saved(tmp_path):
    checkpoint.close(saved(tmp_path, states.every_kind(6)))
    for name in ("7.orbax-checkpoint-tmp-0", "7.orbax-checkpoint-tmp", "3.going"):
        (tmp_path / "checkpoints" / name / "d").mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "d" / "half").write_bytes(b"half")
    (tmp_path / "checkpoints" / "notes").mkdir()
    checkpoints = saved(tmp_path, states.every_kind(7))
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["6", "7", "notes"]
    assert states.same(checkpoint.restore(checkpoints, states.every_kind()), states.every_kind(7))


@pytest.mark.slow
def test_two_processes_save_and_restore_as_one(tmp_path):
    first, second = run_two("tests.train.checkpoint_of_two_processes", str(tmp_path))
    assert first == second
    assert json.loads(first)["steps"] == [1, 3]
    found = checkpoint.restore(checkpoint.open_checkpoints(str(tmp_path)), states.every_kind())
    assert states.same(found, states.every_kind(3))
    assert [path.name for path in (tmp_path / "checkpoints-damaged").iterdir()] == ["2"]
