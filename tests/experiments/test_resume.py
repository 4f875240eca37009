"""A run that was interrupted ends as one that was not."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import moco_cifar10
from ssljax import experiment
from ssljax.data import loader
from ssljax.train.logging import read_metrics
from ssljax.train.state import TrainState


def config(workdir, arrays):
    return moco_cifar10.Config(
        workdir=str(workdir),
        data=arrays,
        devices=1,
        epochs=2,
        batch_size=16,
        queue_size=64,
        width=4,
        embedding_dim=8,
        log_every=1,
        save_every=1,
        eval_every=1,
    )


def run(config):
    """The final state and results of a run."""
    final: list[TrainState] = []
    fit = experiment.fit

    def keep(*args, **options):
        final.append(fit(*args, **options))
        return final[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "fit", keep)
        return experiment.run(config, moco_cifar10.build(config)), final[0]


@pytest.mark.slow
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, arrays, monkeypatch):
    whole, whole_state = run(config(tmp_path / "whole", arrays))
    broken = config(tmp_path / "broken", arrays)
    batches = loader.batches

    def four_batches(*args, **options):
        yield from batches(*args, **{**options, "num_steps": 4})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loader, "batches", four_batches)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(broken, moco_cifar10.build(broken))
    assert not (tmp_path / "broken" / "results.json").exists()
    again, state = run(broken)
    assert again == whole
    for a, b in zip(*(jax.tree.leaves(dataclasses.replace(s, key=0)) for s in (state, whole_state)), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "broken")]
    losses = [[(row["step"], row["loss"]) for row in part] for part in rows]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [1, 2, 3, 4, 5, 6]
    assert all("knn" in row and "rankme" in row for part in rows for row in part if row["step"] in (3, 6))
