"""Every experiment module is built and run for two shrunk steps, through the command line where it can fail."""

import dataclasses
import html
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssljax.cli import experiments as cli
from ssljax.run import experiment
from ssljax.run import ledger as rows
from ssljax.run import workdir as workdirs

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "experiments").glob("[!_]*.py"))]
TOOLS = {
    "bert_prepare",
    "glue",
    "pack_images",
    "plans",
    "plans_scaling",
    "squad",
}  # no pre-training: tests of their own
RUNS = [name for name in NAMES if name not in TOOLS]

SHRUNK = {
    "demo": {"batch_size": 16, "queue_size": 64, "width": 8, "projector": (8, 8)},
    "moco_cifar10": {"batch_size": 16, "queue_size": 64, "width": 4, "stage_sizes": (1,), "bfloat16": True},
    "simclr_cifar10": {"batch_size": 16, "width": 4, "stage_sizes": (1,), "projector": (8, 8), "warmup_epochs": 1},
    "moco_v1_imagenet": {"queue_size": 64},
    "moco_v2_imagenet": {"queue_size": 64},
    "moco_v3_imagenet": {"hidden": 16, "embedding_dim": 8},
    "ten_images": {"steps": 2},
    "bert_base": {"dupe_factor": 2},
    "bert_large": {"scan": True, "remat": True},
    "bert_large_lamb": {"learning_rates": (1e-3, 1e-3), "warmups": (0.5, 0.5)},
    "bert_miniatures": {"size": "tiny", "bfloat16": True},
    "bert_wiki_small": {"steps": (4,), "lengths": (16,), "batch_sizes": (8,), "max_predictions": (3,), "hidden": 16},
    "bert_demo": {"steps": (4,), "lengths": (16,), "batch_sizes": (8,), "max_predictions": (3,), "hidden": 16},
}
COMMANDS = {"make demo", "make demo-text"}
# of the recipes in two phases these enter the second one, too: with AdamW and with LAMB
BOTH_PHASES = {"bert_base", "bert_large_lamb"}
TWO_PHASES = {"lengths": (16, 24), "batch_sizes": (8, 4), "max_predictions": (3, 4)}
IMAGENET = {
    "batch_size": 16,
    "width": 4,
    "stage_sizes": (1, 1),
    "size": 32,
    "probe_epochs": 1,
    "probe_batch_size": 16,
    "test_split": "test",
}


def shrunk(name, tmp_path, arrays, folder, prepared):
    """The module and its config for two steps."""
    module = importlib.import_module(f"experiments.{name}")
    if "bert" in name:
        options = {"data": prepared, "held_out": 10, "devices": 2, "eval_every": 1} | SHRUNK[name]
        if len(module.Config.steps) == 2:
            options |= TWO_PHASES | {"steps": (1, 3) if name in BOTH_PHASES else (3, 1)}
        if hasattr(module.Config, "warmup_steps"):
            options |= {"warmup_steps": 1}
        return module, module.Config(
            workdir=str(tmp_path / name), stop_after=2, log_every=1, compiler_check=False, **options
        )
    options = SHRUNK[name] | (IMAGENET if "imagenet" in name else {}) | {"devices": 2 if "moco" in name else 1}
    if "imagenet" in name:
        options |= {"data": folder}
    elif name != "ten_images":
        options |= {"data": arrays}
    return module, module.Config(
        workdir=str(tmp_path / name), stop_after=2, log_every=1, compiler_check=False, **options
    )


def test_there_is_a_shrunk_config_for_every_module():
    assert set(RUNS) == set(SHRUNK)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_steps_of_every_module(name, tmp_path, arrays, folder, prepared, small_berts, capsys):
    module, config = shrunk(name, tmp_path, arrays, folder, prepared)
    title = (module.__doc__ or "").splitlines()[0].rstrip(".")
    results = experiment.run(config, module.build(config), module.__doc__ or "")
    workdir = tmp_path / name
    assert json.loads((workdir / "results.json").read_text()).keys() == results.keys()
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2]
    assert all(np.isfinite(row["loss"]) for row in logged)
    page = (workdir / "report.html").read_text()
    assert html.escape(title) in page
    capsys.readouterr()
    # a second time it is shown, not run
    assert experiment.run(config, module.build(config)) == json.loads(json.dumps(_rounded(results)))
    assert "finished" in capsys.readouterr().out


def _rounded(results):
    return {row: {column: round(value, 2) for column, value in cells.items()} for row, cells in results.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_is_a_row(name):
    (row,) = [row for row in rows.read(ROOT / "experiments") if row.name == name]
    assert set(rows.FIELDS) == set(row.fields)
    assert f"experiments.{name}" in row.fields["Command"] or row.fields["Command"] in COMMANDS


@pytest.mark.parametrize("name", RUNS)
def test_every_option_has_a_type_and_a_default(name):
    module = importlib.import_module(f"experiments.{name}")
    for field in dataclasses.fields(module.Config):
        assert field.default is not dataclasses.MISSING, field.name
    module.build(module.Config())


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_help_and_the_list():
    listed = python("experiments")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in NAMES)
    helped = python("experiments.moco_v2_imagenet", "--help")
    assert helped.returncode == 0
    for words in ("--workdir", "--queue-size", "--temperature", "0.2", "Momentum of the key encoder"):
        assert words in helped.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "0"], "temperature=0"),
        (["--queue-size", "100"], "queue_size=100"),
        (["--momentum", "1.5"], "momentum=1.5"),
        (["--batch-norm-groups", "3"], "groups=3"),
        (["--data", "nowhere"], "nowhere"),
        (["--batch-size", "999999"], "999999"),
        (["--no-such-option"], "no-such-option"),
        (["--epochs", "many"], "many"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path):
    done = python("experiments.demo", "--workdir", str(tmp_path / "run"), *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_run_is_left_alone(tmp_path, arrays, folder, prepared, capsys):
    module, config = shrunk("demo", tmp_path, arrays, folder, prepared)
    workdirs.claim(config.workdir, config, "demo")
    other = dataclasses.replace(config, temperature=0.5)
    with pytest.raises(experiment.BadInputError, match=r"temperature 0\.3, not 0\.5"):
        experiment.run(other, module.build(other))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(experiment.BadInputError, match="not empty"):
        experiment.run(dataclasses.replace(config, workdir=str(tmp_path / "mine")), module.build(config))


def test_refuse_prints_one_line_and_gives_2(capsys):
    assert cli.refuse(experiment.BadInputError("epochs=0: give at least 1.")) == 2
    assert capsys.readouterr().err == "error: epochs=0: give at least 1.\n"
