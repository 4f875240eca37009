"""Every recipe's numbers, from the papers and the official commands: option defaults, schedules, groups, decay.

The table is written by hand; each figure's source is the module's docstring.
"""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.optim import Pace
from ssljax.run import results
from ssljax.run.config import RunConfig
from ssljax.vision import config as vision

PER_EPOCH = 4  # updates in an epoch, whatever the batch
RESNET_50 = {"stage_sizes": (3, 4, 6, 3), "width": 64, "bfloat16": True}
RESNET_18 = {"stage_sizes": (2, 2, 2, 2), "width": 64, "bfloat16": False}
IMAGENET = RESNET_50 | {"data": "tfds:imagenet2012", "test_split": "validation", "size": 224}
CIFAR = RESNET_18 | {"data": "tfds:cifar10"}
BERT = {
    "data": "",
    "lengths": (128, 512),
    "masked": 0.15,
    "whole_word": False,
    "dupe_factor": 0,
    "held_out": 100,
    "dropout": 0.1,
    "bfloat16": False,
    "remat": False,
    "scan": False,
    "finetune": (),
    "finetune_seeds": 5,
    "finetune_epochs": 3,
    "finetune_learning_rate": 1e-4,
    "weight_decay": 0.01,
}
PAPER = {"steps": (900_000, 100_000), "batch_sizes": (256, 256), "max_predictions": (20, 76), "learning_rate": 1e-4}
PAPER |= {"warmup_steps": 10_000}

# rates: at step 0, at the end of the warm-up, at the last step; decayed: the kinds of parameters
ALL, KERNELS = {"kernel", "bias", "scale"}, {"kernel"}
RECIPES = {
    "demo": {
        "options": {
            "data": "embedded:fashion_mnist",
            "epochs": 34,
            "batch_size": 128,
            "stage_sizes": (1, 1, 1),
            "width": 24,
            "bfloat16": False,
            "batch_norm_groups": 4,
            "projector": (256, 64),
            "learning_rate": 0.15,
            "sgd_momentum": 0.9,
            "weight_decay": 5e-4,
            "queue_size": 4096,
            "momentum": 0.99,
            "temperature": 0.3,
            "crop": (0.6, 1.0),
            "jitter": 0.4,
        },
        "warmup": PER_EPOCH,
        "rates": (0.0, 0.15, 0.15 / 2 * (1 + np.cos(np.pi * (33 * PER_EPOCH - 1) / (33 * PER_EPOCH)))),
        "groups": [4],
        "momenta": (0.99, 0.99),
        "decayed": ALL,
    },
    "moco_cifar10": {
        "options": CIFAR
        | {"epochs": 200, "batch_size": 512, "learning_rate": 0.06, "sgd_momentum": 0.9, "weight_decay": 5e-4}
        | {"queue_size": 4096, "momentum": 0.99, "temperature": 0.1, "symmetric": False, "batch_norm_groups": 8}
        | {"stem": "cifar", "embedding_dim": 128},
        "warmup": 0,
        "rates": (0.06, 0.06, 0.03 * (1 + np.cos(np.pi * 199 / 200))),
        "groups": [8],
        "momenta": (0.99, 0.99),
        "decayed": ALL,
    },
    "simclr_cifar10": {
        "options": CIFAR
        | {"epochs": 1000, "batch_size": 512, "learning_rate": 1.0, "warmup_epochs": 10, "sgd_momentum": 0.9}
        | {"weight_decay": 1e-4, "temperature": 0.5, "jitter_strength": 0.5, "projector": (512, 512, 128)},
        "warmup": 10 * PER_EPOCH,
        "rates": (0.0, 2.0, 1 + np.cos(np.pi * (990 * PER_EPOCH - 1) / (990 * PER_EPOCH))),
        "groups": [1],
        "momenta": None,
        "decayed": KERNELS,
    },
    "moco_v1_imagenet": {
        "options": IMAGENET
        | {"epochs": 200, "batch_size": 256, "learning_rate": 0.03, "milestones": (120, 160), "sgd_momentum": 0.9}
        | {"weight_decay": 1e-4, "queue_size": 65536, "momentum": 0.999, "temperature": 0.07}
        | {"batch_norm_groups": 8, "probe_epochs": 100, "probe_batch_size": 256},
        "warmup": 0,
        "rates": (0.03, 0.03, 0.0003),
        "groups": [8],
        "momenta": (0.999, 0.999),
        "decayed": ALL,
    },
    "moco_v2_imagenet": {
        "options": IMAGENET
        | {"epochs": 200, "batch_size": 256, "learning_rate": 0.03, "sgd_momentum": 0.9, "weight_decay": 1e-4}
        | {"queue_size": 65536, "momentum": 0.999, "temperature": 0.2, "batch_norm_groups": 8}
        | {"probe_epochs": 100, "probe_batch_size": 256},
        "warmup": 0,
        "rates": (0.03, 0.03, 0.015 * (1 + np.cos(np.pi * 199 / 200))),
        "groups": [8],
        "momenta": (0.999, 0.999),
        "decayed": ALL,
    },
    "moco_v3_imagenet": {
        "options": IMAGENET
        | {"epochs": 100, "batch_size": 4096, "learning_rate": 0.6, "warmup_epochs": 10, "sgd_momentum": 0.9}
        | {"weight_decay": 1e-6, "momentum": 0.99, "temperature": 1.0, "hidden": 4096, "embedding_dim": 256}
        | {"probe_epochs": 90, "probe_batch_size": 1024, "probe_learning_rate": 0.1},
        "warmup": 10 * PER_EPOCH,
        "rates": (0.0, 9.6, 4.8 * (1 + np.cos(np.pi * (90 * PER_EPOCH - 1) / (90 * PER_EPOCH)))),
        "groups": [1],
        # made at the end of step n - 1, with which step n's keys are encoded
        "momenta": (1 - 0.01 * (np.cos(np.pi / (100 * PER_EPOCH)) + 1) / 2, 1.0),
        "decayed": KERNELS,
    },
    "bert_base": {
        "options": BERT | PAPER,
        "warmup": 10_000,
        "rates": (0.0, 1e-4 * 0.99, 1e-10),
        "decayed": KERNELS,
    },
    "bert_large": {
        "options": BERT | PAPER,
        "warmup": 10_000,
        "rates": (0.0, 1e-4 * 0.99, 1e-10),
        "decayed": KERNELS,
    },
    "bert_miniatures": {
        "options": BERT | PAPER | {"size": "tiny"},
        "warmup": 10_000,
        "rates": (0.0, 1e-4 * 0.99, 1e-10),
        "decayed": KERNELS,
    },
    "bert_large_lamb": {
        "options": BERT
        | {"steps": (7038, 1563), "batch_sizes": (65536, 32768), "max_predictions": (20, 80)}
        | {"learning_rates": (6e-3, 4e-3), "warmups": (0.2843, 0.128)},
        "warmup": 2001,
        "rates": (None, 6e-3 * np.sqrt(1 - 2001 / 7038), None),
        "decayed": KERNELS,
    },
    "bert_wiki_small": {
        "options": BERT
        | {"steps": (46_856,), "lengths": (128,), "batch_sizes": (128,), "max_predictions": (32,), "masked": 0.25}
        | {"layers": 3, "hidden": 256, "heads": 4, "intermediate": 512, "learning_rate": 5e-4, "warmup_steps": 1000}
        | {"initial_std": 0.02, "initial_positions": "normal"},
        "warmup": 1000,
        "rates": (0.0, 5e-4 * (1 - 1000 / 46_856), 5e-4 / 46_856),
        "decayed": KERNELS,
    },
    "bert_demo": {
        "options": {name: value for name, value in BERT.items() if name != "weight_decay"}
        | {"data": "python-topics", "vocab_size": 1200, "steps": (3000,), "lengths": (64,), "batch_sizes": (16,)}
        | {"max_predictions": (10,), "held_out": 10, "dropout": 0.0, "layers": 2, "hidden": 128, "heads": 4}
        | {"learning_rate": 1e-3, "initial_std": 0.05, "initial_positions": "sinusoidal"},
        "warmup": 300,
        "rates": (0.0, 1e-3 * 0.9, 1e-3 / 3000),
        "decayed": KERNELS,
    },
}


def built(name, monkeypatch):
    """The module, its default config, its experiment at its pace, and the groups of each backbone that it makes."""
    module, groups = importlib.import_module(f"experiments.{name}"), []
    make = vision.resnet

    def noted(*args, **options):
        groups.append(options.get("groups", 1))
        return make(*args, **options)

    monkeypatch.setattr(vision, "resnet", noted)
    config = module.Config()
    if hasattr(config, "lengths") and name != "bert_demo":
        monkeypatch.setattr("ssljax.text.task.corpus.open_corpus", None)  # no data is read: data is ""
    experiment = module.build(config)
    pace = Pace(experiment.epochs, PER_EPOCH) if experiment.epochs else Pace(experiment.steps, 1)
    return config, experiment, pace, groups


@pytest.mark.parametrize("name", RECIPES)
def test_option_defaults(name):
    config = importlib.import_module(f"experiments.{name}").Config()
    common = {field.name for field in dataclasses.fields(RunConfig)} | {"data_dir", "workers", "skip_bad"}
    found = {key: value for key, value in dataclasses.asdict(config).items() if key not in common}
    assert found == RECIPES[name]["options"]
    assert results.module_of(config) == name


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rate(name, monkeypatch):
    _, experiment, pace, _ = built(name, monkeypatch)
    rate, wanted = experiment.optimizer(pace).schedules["lr"], RECIPES[name]
    found = [float(rate(step)) for step in (0, wanted["warmup"], pace.steps - 1)]
    for ours, theirs in zip(found, wanted["rates"], strict=True):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-6 * found[1])


@pytest.mark.parametrize("name", RECIPES)
def test_what_decays(name, monkeypatch):
    _, experiment, pace, _ = built(name, monkeypatch)
    params = {
        "conv": {"kernel": jnp.full((3, 3, 4, 4), 2.0), "bias": jnp.full((4,), 2.0)},
        "bn": {"scale": jnp.full((4,), 2.0), "bias": jnp.full((4,), 2.0)},
    }
    optimizer = experiment.optimizer(pace)
    middle = pace.steps // 3  # of the first phase, after any warm-up

    def later(path, leaf):
        return jnp.full_like(leaf, middle) if getattr(path[-1], "name", "") == "count" else leaf

    state = jax.tree_util.tree_map_with_path(later, optimizer.init(params))
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
    moved = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), updates))
    decayed = {path[-1].key for path, size in moved if size > 0}
    assert decayed == RECIPES[name]["decayed"]
    assert all(size > 0 for path, size in moved if path[-1].key in decayed)


@pytest.mark.parametrize("name", [name for name in RECIPES if "groups" in RECIPES[name]])
def test_batch_norm_groups_and_the_key_encoders_momentum(name, monkeypatch):
    _, experiment, pace, groups = built(name, monkeypatch)
    assert groups == RECIPES[name]["groups"]
    method, wanted = experiment.method(pace), RECIPES[name]["momenta"]
    if wanted is None:
        return

    @dataclasses.dataclass(frozen=True)
    class Aux:
        key_params: dict

    zero, one = ({part: jnp.full((1,), value) for part in ("backbone", "projector")} for value in (0.0, 1.0))
    for step, momentum in zip((0, pace.steps - 1), wanted, strict=True):
        params, aux = method.after_update(one, Aux(zero), jnp.int32(step))
        assert params is one
        np.testing.assert_allclose(aux.key_params["backbone"], 1 - momentum, rtol=1e-4, atol=1e-7)


def test_every_recipe_is_here():
    found = {path.stem for path in Path("experiments").glob("*.py") if "\nclass Config(" in path.read_text()}
    tools = {"bert_prepare", "glue", "pack_images", "plans", "plans_scaling", "squad", "ten_images"}
    assert found - tools == set(RECIPES)
