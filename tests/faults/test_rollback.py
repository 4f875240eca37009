"""Five updates in a row that are not finite: the run goes back, passes over that data, and gives up in the end."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import moco_cifar10
from ssljax.data.order import batch_indices
from ssljax.run import experiment
from ssljax.train.guard import DivergedError
from ssljax.train.logging import read_metrics

PICTURES, BATCH = 128, 8
PER_EPOCH = PICTURES // BATCH


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """Views that are NaN where a picture of the batch is all white."""

    views: Any

    def __call__(self, key, image):
        white = jnp.any(jnp.min(image.reshape(len(image), -1), axis=1) == 255)
        return jax.tree.map(lambda view: jnp.where(white, jnp.nan, view), self.views(key, image=image))


def data_set(path, white):
    """An arrays file whose training pictures with the numbers `white` are all white."""
    rng, content = np.random.default_rng(0), {}
    for split, count in (("train", PICTURES), ("test", 20)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 120, (count, 8, 8, 3)) + 120 * labels[:, None, None, None]
        content |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    content["train_images"][list(white)] = 255
    np.savez(path, **content)
    return f"arrays:{path}"


def start(tmp_path, white, **options):
    config = moco_cifar10.Config(
        workdir=str(tmp_path / "run"),
        data=data_set(tmp_path / "set.npz", white),
        devices=1,
        epochs=3,
        batch_size=BATCH,
        batch_norm_groups=2,
        queue_size=64,
        stage_sizes=(1,),
        width=4,
        embedding_dim=8,
        log_every=1,
        compiler_check=False,
        save_every=1,
        **options,
    )
    recipe = moco_cifar10.build(config)
    return experiment.run(config, dataclasses.replace(recipe, views=Poisoned(recipe.views)))


def samples(step, shift=0):
    """The pictures of the batch that step `step` (from 1) reads."""
    return batch_indices(0, step - 1 + shift, size=PICTURES, batch_size=BATCH).tolist()


@pytest.mark.slow
def test_a_bad_stretch_is_noted_sample_by_sample_and_passed_over(tmp_path, capsys):
    # one picture of each of the second epoch's batches 4 to 8
    white = {samples(PER_EPOCH + n)[0] for n in range(4, 9)}
    start(tmp_path, white)
    rows = {row["step"]: row for row in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    assert max(rows) == 3 * PER_EPOCH
    tripped = PER_EPOCH + 8
    assert rows[PER_EPOCH]["rolled_back_from"] == tripped
    shift = tripped - PER_EPOCH
    for step, row in rows.items():
        # after the rollback every step reads later data; what the first pass over those steps logged is kept
        read = [samples(step)] if step <= PER_EPOCH else [samples(step), samples(step, shift)]
        if "discarded_samples" in row:
            assert row["discarded_samples"] in read
            assert white & set(row["discarded_samples"])
        elif step > PER_EPOCH:
            assert not white & set(read[-1])
            assert np.isfinite(row["loss"])
    said = capsys.readouterr()
    assert f"back to the checkpoint of step {PER_EPOCH}" in said.out + said.err


@pytest.mark.slow
def test_a_run_that_stays_bad_goes_back_three_times_and_gives_up(tmp_path):
    with pytest.raises(DivergedError, match="after 3 rollbacks; lower the learning rate"):
        start(tmp_path, range(PICTURES))
    verdict = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert verdict["roll_backs"] == 3
    assert verdict["discarded_updates"] >= 4 * 5
    assert not (tmp_path / "run" / "results.json").exists()
