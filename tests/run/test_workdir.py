"""Whose a workdir is: what is refused, what may differ when it is allowed, what is set aside."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import optax
import pytest

from ssljax.run import workdir as workdirs
from ssljax.run.experiment import RunConfig
from ssljax.train import checkpoint
from ssljax.train.guard import Guard
from ssljax.train.state import TrainState
from ssljax.types import BadInputError


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    learning_rate: float = 0.1
    batch_size: int = 64


def claimed(path, config=None):
    workdirs.claim(str(path), config or Config(), "demo")
    return str(path)


def saved(path, facts):
    """A checkpoint with `facts` in the directory."""
    checkpoints = checkpoint.open_checkpoints(str(path), metadata=facts)
    state = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, {}, optax.EmptyState(), jax.random.key(0), Guard.new())
    checkpoint.save(checkpoints, state)
    checkpoint.wait_until_finished(checkpoints)
    checkpoint.close(checkpoints)


def test_a_new_an_empty_and_an_own_directory_will_do(tmp_path):
    assert workdirs.check(str(tmp_path / "new"), Config(), "demo") is None
    assert not (tmp_path / "new").exists()
    assert workdirs.check(str(tmp_path), Config(), "demo") is None
    (tmp_path / "lock.json").write_text("{}")
    assert workdirs.check(str(tmp_path), Config(), "demo") is None
    workdir = claimed(tmp_path)
    assert workdirs.check(workdir, dataclasses.replace(Config(), log_every=7, keep=9, record=True), "demo") is None
    (tmp_path / "results.json").write_text(json.dumps({"moco": {"knn": 80.0}}))
    assert workdirs.check(workdir, Config(), "demo") == {"moco": {"knn": 80.0}}


def test_what_differs_is_named(tmp_path):
    workdir = claimed(tmp_path / "run")
    changed = Config(learning_rate=0.2, batch_size=32)
    with pytest.raises(
        BadInputError, match=r"learning_rate 0.1, not 0.2, batch_size 64, not 32.*--allow learning_rate"
    ):
        workdirs.check(workdir, changed, "demo")
    with pytest.raises(BadInputError, match=r"\(batch_size 64, not 32\)"):
        workdirs.check(workdir, dataclasses.replace(changed, allow=("learning-rate",)), "demo")
    with pytest.raises(BadInputError, match=r"experiment 'demo', not 'moco_cifar10'\); choose another --workdir\.$"):
        workdirs.check(workdir, Config(), "moco_cifar10")
    with pytest.raises(BadInputError, match="allow=rate: there is no such option; these can differ: batch_size, "):
        workdirs.check(workdir, dataclasses.replace(changed, allow=("rate",)), "demo")
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "thesis.txt").write_text("")
    with pytest.raises(BadInputError, match="is not empty and holds no run"):
        workdirs.check(str(tmp_path / "stray"), Config(), "demo")


def test_an_allowed_change_goes_on_and_keeps_what_was_there(tmp_path):
    workdir = claimed(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    for number, rate in enumerate((0.2, 0.3), start=1):
        config = Config(learning_rate=rate, allow=("learning_rate",))
        assert workdirs.check(workdir, config, "demo") is None
        claimed(tmp_path, config)
        assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == rate
        assert (tmp_path / f"config.json.before-{number}").exists()
    assert (tmp_path / "results.json.before-1").read_text() == "{}"
    assert (tmp_path / "metrics.jsonl").exists()


def test_the_checkpoint_says_what_it_was_trained_with(tmp_path):
    workdir = claimed(tmp_path)
    saved(tmp_path, workdirs.facts(Config(), "demo", "abc"))
    (tmp_path / "config.json").unlink()  # a lost or edited file does not change whose the checkpoints are
    with pytest.raises(BadInputError, match=r"learning_rate 0.1, not 0.2"):
        workdirs.check(workdir, Config(learning_rate=0.2), "demo")
    assert workdirs.check(workdir, Config(), "demo") is None
    workdirs.check_data(workdir, "abc")
    with pytest.raises(BadInputError, match=r"other data \(fingerprint abc, not xyz\)"):
        workdirs.check_data(workdir, "xyz")
    assert workdirs.other_versions(workdir) == ""


def test_other_versions_are_named(tmp_path):
    facts = workdirs.facts(Config(), "demo", "abc")
    facts["versions"] = facts["versions"] | {"jax": "0.1.2"}
    saved(tmp_path, facts)
    assert f"jax 0.1.2, now {jax.__version__}:" in workdirs.other_versions(str(tmp_path))
