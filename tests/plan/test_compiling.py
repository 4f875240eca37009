"""Compilations for slices: real ones where libtpu is installed, else what is read from them."""

import json
import types

import jax
import pytest

from experiments import demo
from ssljax import sharding
from ssljax.cli import main as commands
from ssljax.optim import Pace
from ssljax.plan import children, compiling
from ssljax.train.state import init_state

SMALL = ("--batch-size", "64", "--queue-size", "128", "--width", "8", "--stage-sizes", "1")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (["params", "backbone", "kernel"], "parameters"),
        (["opt_state", "0", "trace"], "optimiser"),
        (["aux", "queue", "keys"], "queue"),
        (["aux", "key_params", "kernel"], "EMA"),
        (["aux", "key_stats", "mean"], "batch statistics"),
        (["step"], "other"),
        (["aux"], "other"),
    ],
)
def test_kinds_of_the_state(path, kind):
    assert compiling.kind_of(path) == kind


@pytest.mark.parametrize(
    ("said", "used", "limit"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded", 20.5 * 2**30, 15.75 * 2**30),
        ("RESOURCE_EXHAUSTED: Used 800.00M of 16M hbm", 800 * 2**20, 16 * 2**20),
    ],
)
def test_the_compilers_words_for_too_large(said, used, limit):
    assert compiling._too_large(Exception(said)) == {"too_large": {"used": int(used), "limit": int(limit)}}
    with pytest.raises(ValueError, match="another"):
        compiling._too_large(ValueError("another"))


@pytest.mark.parametrize(("peak", "at_once"), [(25, 15), (9, 0)])
def test_temporaries_are_those_that_are_there_at_once(peak, at_once):
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=10,
        output_size_in_bytes=9,
        alias_size_in_bytes=9,
        temp_size_in_bytes=40,
        peak_memory_in_bytes=peak,
        generated_code_size_in_bytes=3,
    )
    found = compiling._temporary(analysis, {"parameters": 6, "batch": 2})
    assert found == {"padding": 2, "activations and temporaries": at_once, "program": 3}


@pytest.mark.parametrize("shard_state", [False, True])
def test_bytes_of_the_state_on_each_device(shard_state):
    config = demo.Config(width=64, queue_size=512)
    experiment = demo.build(config)
    batch = {"image": jax.ShapeDtypeStruct((128, 28, 28, 1), "uint8")}
    pace = Pace(config.epochs, 10)
    method, optimizer = experiment.method(pace), experiment.optimizer(pace)
    with sharding.use_mesh(sharding.make_mesh(8)):
        state = jax.eval_shape(
            lambda: init_state(method, optimizer, experiment.views, batch, 0, shard_state=shard_state)
        )
        found = compiling.state_bytes(state)
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert found["queue"] == 512 * 64 * 4 + 4  # and its place
    assert found["parameters"] == found["EMA"]
    share = found["parameters"] / whole
    assert share < 0.15 if shard_state else share == 1


@pytest.mark.slow
def test_a_plan_end_to_end(capsys, tmp_path):
    pytest.importorskip("libtpu")
    file = tmp_path / "plan.json"
    commands.main(["plan", "demo", "--topology", "v5e-4", "--json", str(file), "--", *SMALL])
    assert "fits: " in capsys.readouterr().out
    (part,) = json.loads(file.read_text())["stretches"]
    gradients = part["bytes_per_chip"]["parameters"]
    # every gradient is summed once, and little else
    assert gradients <= part["collectives"]["all-reduce"]["payload"] <= 1.1 * gradients + 1e4
    assert part["bytes_per_chip"]["EMA"] == gradients
    assert part["bytes_used"] < part["bytes_of_chip"]
    assert part["flops"] > 0
    assert part["estimate"]["hours"] > 0


@pytest.mark.slow
def test_pictures_are_exchanged_on_many_chips():
    pytest.importorskip("libtpu")
    options = [*SMALL, "--batch-size", "128", "--batch-norm-groups", "16"]
    request = {"what": "step", "topology": "v5e-16", "stretch": 0, "name": "demo", "options": options}
    found = children.ask(request)["collectives"]
    pixels, keys = 28 * 28, 64 * 4
    exchanged = found["all-to-all"]
    assert exchanged["count"] == 2
    # as bfloat16, which the convolution reads, or as float32
    assert 8 * (pixels * 2 + keys) <= exchanged["payload"] <= 8 * (pixels * 4 + keys)
    assert exchanged["sent"] == exchanged["payload"] * 7 / 8
    assert found["all-gather"]["payload"] == 128 * keys


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e-4", "v4-8"])
def test_compiled_views_have_neither_gather_nor_loop(topology):
    pytest.importorskip("libtpu")
    request = {"what": "views", "topology": topology, "name": "moco_v2_imagenet", "options": ["--batch-size", "8"]}
    found = children.ask(request)["operations"]
    assert found["fusion"] > 0
    assert not {"gather", "while"} & set(found)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(capsys):
    pytest.importorskip("libtpu")
    with pytest.raises(SystemExit) as left:
        commands.main(["plan", "demo", "--topology", "v5e-4", "--", *SMALL, "--batch-size", "66", "--queue-size", "66"])
    assert left.value.code == 2
    assert "does not divide over 4 chips" in capsys.readouterr().err
