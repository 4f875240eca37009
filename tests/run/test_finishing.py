"""The end of a run: the encoder first, then figures, then the page; what fails loses nothing and is done later."""

import json

import pytest

from ssljax.run import experiment
from ssljax.run.config import RunConfig
from ssljax.run.finishing import UnfinishedError
from ssljax.train.logging import read_metrics
from tests.train import dense

OPTIONS = {"devices": 1, "log_every": 5, "save_every": 1, "eval_every": 2, "compiler_check": False, "stall_timeout": 0}


def run(workdir, events, broken=()):
    """A run whose parts note in `events` that they ran, and fail where they are in `broken`."""

    def noting(what, result):
        def call(*args):
            events.append(what)
            if what in broken:
                raise ValueError(f"{what} is broken")
            return result(*args)

        return call

    recipe = dense.recipe()
    task = recipe.task()
    parts = {
        "controls": lambda: {"controls": {"sum": 1.0}},
        "accuracy": lambda: {"controls": {"accuracy": 2.0}, "dense": {"accuracy": 3.0}},
        "loss": lambda: {"dense": {"loss": 4.0}},
    }
    task = task._replace(
        export=noting("export", lambda learner, directory: "The encoder is here."),
        evaluations=lambda rows: {name: noting(name, part) for name, part in parts.items()},
        page=noting("page", lambda learner, log: {}),
        monitor=noting("monitor", lambda learner: {"figure": 1.0}) if "monitor" in broken else task.monitor,
    )
    found = RunConfig(workdir=str(workdir), **OPTIONS)
    return experiment.run(found, type(recipe)(**{**vars(recipe), "task": lambda: task}))


WHOLE = {"controls": {"sum": 1.0, "accuracy": 2.0}, "dense": {"accuracy": 3.0, "loss": 4.0}}


def test_the_order_of_a_run_s_end(tmp_path, capsys):
    events = []
    assert run(tmp_path, events) == WHOLE
    assert events == ["export", "controls", "accuracy", "loss", "page"]
    assert json.loads((tmp_path / "results.json").read_text()) == WHOLE
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "evaluations.json").exists()
    assert "The encoder is here." in capsys.readouterr().out
    assert run(tmp_path, events) == WHOLE  # finished: nothing is repeated
    assert len(events) == 5


@pytest.mark.parametrize(
    ("broken", "repeated"),
    [
        (["accuracy"], ["export", "accuracy", "page"]),
        (["page"], ["export", "page"]),
        (["export"], ["export", "page"]),
        (["controls", "loss", "page"], ["export", "controls", "loss", "page"]),
    ],
)
def test_what_fails_loses_nothing_and_is_repeated_alone(tmp_path, capsys, broken, repeated):
    events = []
    with pytest.raises(UnfinishedError, match=r"failed \(ValueError: .* same command") as raised:
        run(tmp_path, events, broken)
    assert all(f"{what} is broken" in str(raised.value) for what in broken)
    assert events == ["export", "controls", "accuracy", "loss", "page"]  # the others ran
    assert "is broken" in (tmp_path / "failures.txt").read_text()
    assert all(f"{what} is broken" in capsys.readouterr().err for what in broken[:1])
    steps = len(read_metrics(tmp_path / "metrics.jsonl"))
    if broken == ["page"]:
        assert json.loads((tmp_path / "results.json").read_text()) == WHOLE
    else:
        assert not (tmp_path / "results.json").exists()
    events.clear()
    assert run(tmp_path, events) == WHOLE
    assert events == repeated
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == steps  # it was not trained again
    assert json.loads((tmp_path / "results.json").read_text()) == WHOLE


def test_an_online_evaluation_that_fails_costs_no_training(tmp_path, capsys):
    events = []
    assert run(tmp_path, events, ["monitor"]) == WHOLE
    assert events.count("monitor") == 2  # after epochs 2 and 4
    assert "Step 10: the online evaluation failed (ValueError: monitor is broken)" in capsys.readouterr().out
    assert "monitor is broken" in (tmp_path / "failures.txt").read_text()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10, 15, 20]
