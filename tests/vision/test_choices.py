"""What `ssljax pretrain` chooses: it fits together for sets of any size, and what is given is kept."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax.optim import Pace
from ssljax.types import BadInputError
from ssljax.vision import choices
from ssljax.vision.choices import FEWEST, Facts, choose, look_at, resolve
from ssljax.vision.pretrain import BACKBONES, Config, build
from ssljax.vision.recipes import RECIPES, Chosen
from ssljax.vision.sources import open_source
from tests.vision.picture_files import RNG, colours, encoded, save

FACTS = st.builds(
    lambda count, side, channels, one_size: Facts(
        count, side, channels, one_size, (0.4,) * channels, (0.2,) * channels
    ),
    st.integers(FEWEST, 3_000_000),
    st.integers(1, 5000),
    st.integers(1, 16),
    st.booleans(),
)


def settled(config, facts, on_cpu) -> Any:
    chosen = choose(config, facts, on_cpu=on_cpu)._asdict() | {"eval_every": 10, "save_every": 10}
    return dataclasses.replace(config, **{k: v for k, v in chosen.items() if getattr(config, k) is None})


@settings(max_examples=150, deadline=None)
@given(FACTS, st.booleans(), st.sampled_from(sorted(RECIPES)))
def test_what_is_chosen_fits_together(facts, on_cpu, method):
    config = settled(Config(data="folder:x", method=method), facts, on_cpu)
    kept = facts.count - facts.count // 10 - 1  # what a hold-out may leave
    assert config.batch_size <= kept
    assert config.batch_size & (config.batch_size - 1) == 0
    assert (config.queue_size is None) == (method != "moco")
    assert config.queue_size is None or config.queue_size % config.batch_size == 0
    assert config.size <= max(facts.side, 32)
    assert config.backbone in BACKBONES
    experiment = build(config)
    pace = experiment.pace(kept)
    experiment.method(pace)
    rate = experiment.optimizer(pace).schedules["lr"]
    assert float(rate(pace.steps)) == pytest.approx(0, abs=1e-6)
    assert experiment.views.on_host == (not facts.one_size)


def test_given_options_are_kept_and_the_others_follow_them():
    facts = Facts(3000, 480, 3, False, (0.4,) * 3, (0.2,) * 3)
    plain = settled(Config(data="folder:x"), facts, on_cpu=False)
    given_ = Config(data="folder:x", batch_size=32, size=200, backbone="resnet50", width=16, epochs=7, stem="cifar")
    config = settled(given_, facts, on_cpu=False)
    for name in ("batch_size", "size", "backbone", "width", "epochs", "stem"):
        assert getattr(config, name) == getattr(given_, name)
    assert config.learning_rate / plain.learning_rate == pytest.approx(32 / plain.batch_size)
    assert config.queue_size % 32 == 0
    assert plain.backbone == "resnet18"
    assert (plain.size, plain.stem) == (128, "imagenet")
    assert settled(Config(data="folder:x"), facts._replace(side=28), on_cpu=False).stem == "cifar"


def test_a_batch_of_any_size_gets_the_groups_that_divide_it():
    facts = Facts(3000, 8, 3, True, (0.4,) * 3, (0.2,) * 3)
    for batch_size in (4, 10, 12):
        experiment = build(settled(Config(data="folder:x", batch_size=batch_size), facts, on_cpu=True))
        views = {f"view_{n}": np.zeros((batch_size, 8, 8, 3), np.float32) for n in (1, 2)}
        method = experiment.method(Pace(1, 1))
        state = jax.eval_shape(method.init, jax.random.key(0), views)
        loss, _ = jax.eval_shape(method.loss, *state, views, jax.random.key(0), 0)
        assert loss.shape == ()


def test_steps_instead_of_epochs():
    facts = Facts(3000, 32, 1, True, (0.4,), (0.2,))
    experiment = build(settled(Config(data="folder:x", steps=77), facts, on_cpu=True))
    assert experiment.pace(3000) == Pace(77, 1)


def test_mean_and_size_are_the_pictures(tmp_path):
    images = RNG.integers(0, 200, (40, 12, 12, 5), dtype=np.uint8)
    facts = look_at(open_source(save(tmp_path / "x.npz", train_images=images), "train"))
    assert (facts.count, facts.side, facts.channels, facts.one_size) == (40, 12, 5, True)
    # resizing to a larger side keeps the mean
    np.testing.assert_allclose(facts.mean, images.mean((0, 1, 2)) / 255, atol=0.02)


@pytest.mark.parametrize("equal", [True, False])
def test_files_of_one_size_are_cropped_on_the_device(tmp_path, equal):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(encoded(colours(20, 16 if equal or number < 19 else 17)))
    facts = look_at(open_source(f"folder:{tmp_path}", "train"))
    assert (facts.one_size, facts.side, facts.channels) == (equal, 16, 3)


def test_a_large_set_is_not_looked_at_file_by_file(tmp_path, monkeypatch):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(encoded(colours(8, 8)))
    monkeypatch.setattr(choices, "RESIDENT", 20 * 8 * 8 * 3 - 1)
    assert not look_at(open_source(f"folder:{tmp_path}", "train")).one_size


def test_what_cannot_be_chosen_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="data='': give the pictures"):
        resolve(Config())
    with pytest.raises(BadInputError, match="epochs=3 and steps=4: give one of them"):
        resolve(Config(data="folder:x", epochs=3, steps=4))
    images = RNG.integers(0, 200, (FEWEST - 1, 4, 4), dtype=np.uint8)
    with pytest.raises(BadInputError, match=f"has 15 pictures; give at least {FEWEST}"):
        resolve(Config(data=save(tmp_path / "x.npz", train_images=images), workdir=str(tmp_path / "run")))


def test_the_options_that_can_be_left_out_are_those_that_are_chosen():
    left_out = {field.name for field in dataclasses.fields(Config) if field.default is None}
    assert set(Chosen._fields) <= left_out
