"""Runs in miniature that collapse: what is said, logged and shown, and what `on_collapse` does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.run import experiment, results
from ssljax.run.config import RunConfig
from ssljax.train import checkpoint
from ssljax.train.collapse import CollapsedError
from ssljax.train.logging import read_metrics
from ssljax.types import Method
from tests.train import toy_collapse

EPOCHS = 25


def run(path, recipe, **options):
    fields = {"devices": 1, "log_every": 10, "eval_every": 5, "save_every": 2, "compiler_check": False}
    return experiment.run(RunConfig(workdir=str(path), stall_timeout=0, **(fields | options)), recipe)


def collapsed(path):
    return {row["step"]: row["collapsed"] for row in read_metrics(path / "metrics.jsonl") if row.get("collapsed")}


@pytest.fixture
def only_training(monkeypatch):
    """Leave out the end of a run."""
    monkeypatch.setattr(experiment.finishing, "finish", lambda run, pretrained, began: {})


def test_moco_without_momentum_collapses(tmp_path, capsys, only_training):
    run(tmp_path, toy_collapse.recipe("moco, momentum 0", 1.0, EPOCHS))
    (reason,) = collapsed(tmp_path).values()
    assert "embedding_std" in reason
    assert capsys.readouterr().out.count(reason) == 1


def test_a_collapse_is_said_logged_and_shown(tmp_path, capsys):
    run(tmp_path, toy_collapse.recipe("no predictor", 2.0, EPOCHS))
    (reason,) = collapsed(tmp_path).values()
    said = capsys.readouterr().out
    assert said.count(reason) == 1
    assert "the usual causes are a learning rate that is too high" in said
    page = (tmp_path / "report.html").read_text()
    assert page.index("collapsed during this run") < page.index("<section>")
    assert reason in page


@pytest.mark.parametrize("name", ["moco", "simclr"])
def test_a_healthy_run_is_left_alone(name, tmp_path, capsys, only_training):
    run(tmp_path, toy_collapse.recipe(name, 0.1, EPOCHS), on_collapse="stop")
    assert collapsed(tmp_path) == {}
    assert "collapsed" not in capsys.readouterr().out


def test_stop_saves_says_so_and_resumes_with_warn_only(tmp_path, only_training):
    recipe = toy_collapse.recipe("no predictor", 2.0, EPOCHS)
    with pytest.raises(CollapsedError, match=r"embedding_std.* is saved: .*lower learning rate") as raised:
        run(tmp_path, recipe, on_collapse="stop")
    assert "\n" not in str(raised.value)
    stopped = checkpoint.latest_step(str(tmp_path)) or 0
    assert max(collapsed(tmp_path)) <= stopped < 8 * EPOCHS
    with pytest.raises(CollapsedError, match=f"state of step {stopped + 1} is saved"):
        run(tmp_path, recipe, on_collapse="stop")
    run(tmp_path, recipe, on_collapse="warn")
    assert len(collapsed(tmp_path)) == 1
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 8 * EPOCHS


def test_the_command_exits_with_1(tmp_path, capsys, monkeypatch):
    from ssljax.cli import experiments

    def collapse(*_):
        raise CollapsedError("the representation has collapsed")

    monkeypatch.setattr(experiments.experiment, "run", collapse)
    monkeypatch.setattr("sys.argv", ["x", "--on-collapse", "stop"])
    with pytest.raises(SystemExit) as stopped:
        experiments.main(RunConfig, lambda config: None, "")  # type: ignore[arg-type, return-value]
    assert stopped.value.code == "error: the representation has collapsed"  # which Python turns into exit code 1


def test_it_is_an_option_that_may_differ_on_resume():
    assert "on_collapse" in results.NEUTRAL
    assert results.non_default(RunConfig(on_collapse="stop")) == {}


def by_data(low):
    """A recipe whose embeddings are one where the data of the steps in `low` is read; rows know their step."""

    def numbered(first, last, shift):
        for step in range(first, last):
            yield {"image": jnp.full((8, 1), step + shift, jnp.float32)}

    def loss(params, aux, batch, key, step):
        when = batch["image"][0, 0]
        std = jnp.where((when >= low.start) & (when < low.stop), 0.0, 0.3)
        return params["w"] ** 2, (aux, {"loss": params["w"], "embedding_std": std, "when": when})

    method = Method(
        init=lambda key, batch: ({"w": jnp.ones(())}, {"none": jnp.zeros(())}),
        loss=loss,
        after_update=lambda params, aux, step: (params, aux),
        features=lambda params, aux, inputs: {"embedding": inputs},
        encoder=lambda params, aux: (params, {}),
    )
    recipe = toy_collapse.recipe("no predictor", 0.01, EPOCHS)
    shapes = ({"image": jax.ShapeDtypeStruct((8, 1), np.float32)},)
    task = recipe.task()._replace(batches=numbered, batch_shapes=shapes, inputs=None, monitor=lambda learner: {})
    return dataclasses.replace(
        recipe, method=lambda pace: method, views=lambda key, image: {"image": image}, task=lambda: task
    )


@pytest.mark.parametrize("stop_at", [None, 165])
def test_rollback_restores_what_was_saved_before_and_skips_the_data(tmp_path, capsys, stop_at, only_training):
    recipe = by_data(range(45, 155))
    if stop_at is not None:  # resumed amid the second pass: nothing is known but the rows and the checkpoint
        run(tmp_path, recipe, on_collapse="rollback", stop_after=stop_at)
    run(tmp_path, recipe, on_collapse="rollback", allow=("stop_after",))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    (back,) = [row for row in rows if "rolled_back_from" in row]
    assert back["step"] == 48  # of the checkpoints at multiples of 16 the last before row 50, the first low one
    (at,) = collapsed(tmp_path)
    assert at == 150
    shift = back["rolled_back_from"] - back["step"]
    assert all(row["when"] == row["step"] - 1 + shift for row in rows if row["step"] > 50 and "when" in row)
    assert min(row["embedding_std"] for row in rows if row["step"] > 50 and "when" in row) > 0.2
    assert rows[-1]["step"] == 8 * EPOCHS
    assert "back to the checkpoint of step 48, past the data in between" in capsys.readouterr().out


def test_rollback_gives_up_after_three_times(tmp_path):
    with pytest.raises(CollapsedError, match="after 3 rollbacks; lower the learning rate"):
        run(tmp_path, by_data(range(45, 10**6)), on_collapse="rollback")
    assert not (tmp_path / "results.json").exists()


def test_rollback_without_an_earlier_checkpoint_says_so(tmp_path, only_training):
    recipe = by_data(range(10**6))
    run(tmp_path, recipe, stop_after=96, keep=1, save_every=2)  # warns only; step 0 is not kept
    with pytest.raises(CollapsedError, match=r"no earlier checkpoint is left \(see --keep\)"):
        run(tmp_path, recipe, on_collapse="rollback", allow=("stop_after",))
