"""Damaged checkpoint files: detected, reported, moved aside, an older step restored; never silent, never a crash."""

import shutil

import numpy as np
import pytest
from etils import epath

from ssljax.train import checkpoint
from ssljax.train.saving import manifest, store
from ssljax.types import BadInputError
from tests.train import states

# when orbax gives up on one array, what its other reads report to is gone already; Python says so on stderr
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

HARMLESS = store.CHANGES_AT_COMMIT
"""Files that are not needed for reading: damage to them changes nothing."""


@pytest.fixture(scope="module", params=["as ever", "no hashes of files"])
def intact(request, tmp_path_factory):
    """A run with steps 1 and 2; the second kind has only sizes and the leaves' digests against damage."""
    workdir = tmp_path_factory.mktemp("intact")
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "as ever":
            patch.setattr(manifest, "_MAX_HASHED_BYTES", -1)
        checkpoints = checkpoint.open_checkpoints(str(workdir))
        for step in (1, 2):
            checkpoint.save(checkpoints, big(step))
        checkpoint.wait_until_finished(checkpoints)
        checkpoint.close(checkpoints)
    return workdir


def big(step):
    """Leaves large enough to have data files of their own, compressible ones among them."""
    state = states.every_kind(step)
    return state.replace(aux={"queue": state.aux["queue"], "zeros": np.zeros((70, 300), np.float32) + step})


def files(workdir, step=2):
    """The step's files by their place in it, sorted such that the same seed picks the same kinds."""
    root = workdir / "checkpoints" / str(step)
    found = [path for path in root.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (kind(root, path), path.stat().st_size, path.name))


def kind(root, path):
    """A file's place without the names that orbax draws at random."""
    place = path.relative_to(root)
    return str(place.parent) if place.parent.name == "d" else str(place)


def flip(path, rng, count=1):
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), count):
        data[place] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(data))


def shorten(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))])


def lengthen(path, rng):
    path.write_bytes(path.read_bytes() + rng.bytes(9))


def zero(path, rng):
    data = bytearray(path.read_bytes())
    start = rng.integers(len(data))
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.write_bytes(bytes(data))


def garble(path, rng):
    path.write_bytes(rng.bytes(path.stat().st_size))


def delete(path, rng):
    del rng
    path.unlink()


def outcome(workdir, before):
    """What a restore comes to after damage to step 2, checked: "whole" or "older"."""
    said = []
    checkpoints = checkpoint.open_checkpoints(str(workdir))
    found = checkpoint.restore(checkpoints, big(0), say=said.append)
    assert found is not None
    checkpoint.close(checkpoints)
    if int(found.step) == 2:
        assert states.same(found, big(2))
        assert not said
        return "whole"
    assert states.same(found, big(1))
    assert len(said) == 1
    assert "Checkpoint 2 is damaged (" in said[0]
    assert "checkpoint 1 is restored" in said[0]
    aside = workdir / "checkpoints-damaged" / "2"
    assert str(aside) in said[0]
    assert {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()} == before
    return "older"


def damaged(intact, tmp_path, damage, number, seed):
    """Copy the run, damage a file of step 2, restore: (the file's kind, what came of it)."""
    workdir = tmp_path / str(seed)
    shutil.copytree(intact, workdir)
    victims = files(workdir)
    victim = victims[number % len(victims)]
    root = workdir / "checkpoints" / "2"
    label, old = kind(root, victim), victim.read_bytes()
    damage(victim, np.random.default_rng(seed))
    if victim.exists() and victim.read_bytes() == old:
        return label, "untouched"
    return label, outcome(workdir, {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})


@pytest.mark.parametrize("damage", [flip, shorten, lengthen, zero, garble, delete])
def test_damage_to_every_file_is_found_or_harmless(intact, tmp_path, damage):
    for number in range(len(files(intact))):
        label, came = damaged(intact, tmp_path, damage, number, seed=number)
        if label in HARMLESS:
            assert came in ("whole", "untouched")
        elif label == manifest.NAME or damage in (shorten, lengthen, delete):
            assert came in ("older", "untouched"), label


def test_a_flipped_bit_of_a_leaf_names_the_leaf(intact, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(intact, workdir)
    data = big(2).aux["zeros"].tobytes()
    holders = [path for path in files(workdir) if path.parent.name == "d" and data in path.read_bytes()]
    assert holders
    for path in holders:
        contents = bytearray(path.read_bytes())
        contents[contents.find(data) + 1000] ^= 4
        path.write_bytes(bytes(contents))
    said = []
    found = checkpoint.restore(checkpoint.open_checkpoints(str(workdir)), big(0), say=said.append)
    assert states.same(found, big(1))
    assert "aux/zeros has changed since it was saved" in said[0] or "has changed since it was written" in said[0]


def test_a_step_that_was_moved_aside_can_be_saved_again_and_moved_aside_again(intact, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(intact, workdir)
    for _ in range(3):
        (workdir / "checkpoints/2/manifest.ocdbt").unlink()
        checkpoints = checkpoint.open_checkpoints(str(workdir))
        assert states.same(checkpoint.restore(checkpoints, big(0)), big(1))
        checkpoint.save(checkpoints, big(2))
        checkpoint.wait_until_finished(checkpoints)
        assert states.same(checkpoint.restore(checkpoints, big(0)), big(2))
        checkpoint.close(checkpoints)
    assert sorted(path.name for path in (workdir / "checkpoints-damaged").iterdir()) == ["2", "2.1", "2.2"]


def test_a_run_of_which_no_checkpoint_is_intact_is_refused_not_restarted(intact, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(intact, workdir)
    (workdir / "checkpoints/1/_METADATA").unlink()
    (workdir / "checkpoints/2/manifest.json").unlink()
    before = sorted(workdir.rglob("*"))
    for _ in range(2):
        with pytest.raises(
            BadInputError, match=r"all checkpoints in .* damaged \(2: manifest.json is missing; 1: .*_METADATA"
        ):
            checkpoint.restore(checkpoint.open_checkpoints(str(workdir)), big(0))
    assert sorted(workdir.rglob("*")) == before


def test_fuzzed_manifests_are_damage_and_nothing_else(intact, tmp_path):
    rng = np.random.default_rng(0)
    sealed = (intact / "checkpoints/2/manifest.json").read_bytes()
    target = epath.Path(tmp_path)
    path = tmp_path / manifest.NAME
    path.write_bytes(sealed)
    whole = manifest.read(target)
    cases = [b"", b"{}", b"null", b"[" * 100_000, sealed[:-1], sealed + b" ", sealed.replace(b" ", b"  ", 1)]
    cases += [rng.bytes(int(rng.integers(1, 3000))) for _ in range(100)]
    for place in [*range(200), *range(200, len(sealed), 7)]:
        flipped = bytearray(sealed)
        flipped[place] ^= 1 << rng.integers(8)
        cases.append(bytes(flipped))
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(manifest.DamagedError):
            manifest.read(target)
    path.write_bytes(sealed)
    assert manifest.read(target) == whole
    assert len(cases) > 500
