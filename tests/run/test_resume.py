"""A run that was interrupted ends as one that was not, whatever its method: every leaf, every loss, to the last bit."""

import pytest
from etils import epath

from experiments import bert_demo, moco_cifar10, moco_v3_imagenet, simclr_cifar10
from ssljax.run import experiment, programs, running
from ssljax.train.logging import read_metrics
from ssljax.train.saving import manifest

STEPS, STOP = 6, 4
SMALL = {"batch_size": 16, "width": 4, "stage_sizes": (1,), "epochs": 2, "save_every": 1, "eval_every": 1}
METHODS = {
    "moco": (moco_cifar10, SMALL | {"queue_size": 64, "embedding_dim": 8}),
    "moco_v3": (
        moco_v3_imagenet,
        SMALL
        | {"size": 32, "hidden": 16, "embedding_dim": 8, "warmup_epochs": 1, "test_split": "test"}
        | {"momentum": 0.5, "probe_epochs": 1, "probe_batch_size": 16},
    ),
    "simclr": (simclr_cifar10, SMALL | {"projector": (8, 8), "warmup_epochs": 1}),
    "bert": (
        bert_demo,
        {"steps": (3, 3), "lengths": (16, 24), "batch_sizes": (8, 4), "max_predictions": (3, 4), "hidden": 16}
        | {"dropout": 0.1, "save_every": 2, "eval_every": 3},
    ),
}


def run(name, data, workdir):
    module, options = METHODS[name]
    config = module.Config(workdir=str(workdir), data=data, devices=1, log_every=1, compiler_check=False, **options)
    return experiment.run(config, module.build(config))


def steps_compiled(monkeypatch):
    """The compiled steps of the runs that follow, in order."""
    found, compile_step = [], programs.compile_step

    def keep(*parts):
        found.append(compile_step(*parts))
        return found[-1]

    monkeypatch.setattr(programs, "compile_step", keep)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(name, tmp_path, arrays, prepared, monkeypatch):
    data = prepared if name == "bert" else arrays
    steps = steps_compiled(monkeypatch)
    whole = run(name, data, tmp_path / "whole")
    assert steps[0]._cache_size() == (2 if name == "bert" else 1)  # one program for each phase
    boundary = running.Running.boundary

    def cut(running, step, state):
        boundary(running, step, state)
        if step > STOP:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running.Running, "boundary", cut)
        with pytest.raises(KeyboardInterrupt):
            run(name, data, tmp_path / "broken")
    assert not (tmp_path / "broken" / "results.json").exists()
    assert run(name, data, tmp_path / "broken") == whole
    ends = [epath.Path(tmp_path / part / "checkpoints" / str(STEPS)) for part in ("whole", "broken")]
    # a hash over every leaf: parameters, momentum encoder, statistics, queue, optimiser, key, step, data position
    assert manifest.read(ends[0])["leaves"] == manifest.read(ends[1])["leaves"]
    rows = [read_metrics(tmp_path / part / "metrics.jsonl") for part in ("whole", "broken")]
    losses = [[(row["step"], row["loss"].hex()) for row in part if row["step"]] for part in rows]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, STEPS + 1))
    watched = "held_out_mlm_accuracy" if name == "bert" else "knn"
    assert all(watched in row for part in rows for row in part if row["step"] in (3, 6))
