"""The measurement of an accelerator: what it would run, what it holds, and all of it shrunk on a CPU."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import __main__ as bench
from experiments.bench import accelerator, accelerator_needs, convolutions, device_checks, harness, machine
from experiments.bench.accelerator import Config
from experiments.bench.accelerator_parts import PARTS, Part, held
from ssljax.types import BadInputError

ROOT = Path(__file__).parents[2]
ON_GPU = {"device": "1 x NVIDIA H100 80GB HBM3"}
ON_CPU = {"device": "1 x x86_64 CPU"}
NAMED = {part.name: part for part in PARTS}


def toy(name, command, minutes=0.0, limit=1.0, result="none.json"):
    return Part(name, f"title of {name}", minutes, limit, command, "", result)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The driver with other parts, in a folder of its own; returns a function that runs it."""
    monkeypatch.setattr(accelerator, "check_machine", lambda dry_run: None)
    monkeypatch.setattr(accelerator, "ROOT", tmp_path)
    (tmp_path / "experiments" / "results").mkdir(parents=True)

    def run(*parts, **options):
        monkeypatch.setattr(accelerator, "PARTS", parts)
        failed = accelerator.run(Config(out=str(tmp_path / "out"), **options))
        return failed, json.loads((tmp_path / "out" / "parts.json").read_text())

    return run


@pytest.mark.slow
def test_a_dry_run_does_every_part_and_leaves_the_recorded_figures_alone(tmp_path):
    recorded = {path: path.stat().st_mtime_ns for path in (ROOT / "experiments" / "results").iterdir()}
    command = [sys.executable, "-m", "experiments.bench.accelerator", "--dry-run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    ended = json.loads((tmp_path / "out" / "parts.json").read_text())
    assert [*ended] == [part.name for part in PARTS]
    assert {row["state"] for row in ended.values()} == {"done"}
    assert recorded == {path: path.stat().st_mtime_ns for path in (ROOT / "experiments" / "results").iterdir()}
    with tarfile.open(tmp_path / "out" / "results.tar") as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    results = tmp_path / "unpacked" / "experiments" / "results"
    runs = {name: json.loads((results / f"{name}.json").read_text()) for name in ("moco_cifar10", "bert_wiki_small")}
    assert [record["options"].get("symmetric", False) for record in runs["moco_cifar10"]] == [False, True]
    assert "SST-2" in str(runs["bert_wiki_small"][0]["results"])
    measured = json.loads((results / "bench-cpu.json").read_text())
    assert [*measured] == [part.name for part in PARTS if part.command.startswith("experiments.bench ")]
    assert all(len(entry["sides"]) >= 2 and not entry["missing"] for entry in measured.values())
    checked = json.loads((results / "checks-cpu.json").read_text())
    assert all(row["passed"] for row in checked["checks"])
    # what has been measured on a CPU is not held
    assert not any(held(part, results) for part in PARTS)


def test_the_plan_names_what_is_held_and_which_data_is_missing(tmp_path, capsys):
    (tmp_path / "cifar.npz").touch()
    config = Config(plan=True, out=str(tmp_path), pictures=f"arrays:{tmp_path}/cifar.npz", text="nowhere")
    assert accelerator.run(config) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() >= NAMED.keys()
    assert "held, in experiments/results" in lines["moco_cifar10"]
    assert "--text nowhere is not there" in lines["bert_wiki_small"]
    assert "[" not in lines["moco_cifar10 symmetric"]


@pytest.mark.parametrize(
    ("name", "options", "environment", "expected"),
    [
        ("moco_cifar10", {"bfloat16": True, "data": "arrays:cifar10_jpeg.npz"}, ON_GPU, True),
        ("moco_cifar10", {"bfloat16": True}, ON_CPU, False),
        ("moco_cifar10", {"bfloat16": True, "epochs": 20}, ON_GPU, False),
        ("moco_cifar10", {}, ON_GPU, False),
        ("moco_cifar10", {"bfloat16": True, "symmetric": True}, ON_GPU, False),
        ("moco_cifar10 symmetric", {"bfloat16": True, "symmetric": True}, ON_GPU, True),
        ("bert_wiki_small", {"bfloat16": True, "steps": [2000]}, ON_GPU, False),
        ("bert_wiki_small", {"bfloat16": True, "finetune_seeds": 3}, ON_GPU, True),
        ("simclr_cifar10", {"bfloat16": True}, ON_GPU, False),
        ("simclr_cifar10", {"bfloat16": True, "epochs": 200}, ON_GPU, True),
    ],
)
def test_a_run_is_held_if_it_was_whole_and_on_an_accelerator(tmp_path, name, options, environment, expected):
    record = {"options": options, "environment": environment}
    (tmp_path / NAMED[name].result).write_text(json.dumps([record]))
    assert held(NAMED[name], tmp_path) is expected


def test_a_benchmark_is_held_by_any_accelerators_file(tmp_path):
    part = NAMED["bert_base_512"]
    (tmp_path / "bench-x86-64-cpu-2.json").write_text(json.dumps({part.name: {"environment": ON_CPU}}))
    assert not held(part, tmp_path)
    (tmp_path / "bench-nvidia-h100.json").write_text(json.dumps({"moco_step": {"environment": ON_GPU}}))
    assert not held(part, tmp_path)
    (tmp_path / "bench-nvidia-h100.json").write_text(json.dumps({part.name: {"environment": ON_GPU}}))
    assert held(part, tmp_path)


def test_a_part_that_fails_or_hangs_costs_no_other_and_is_run_again(toys, tmp_path, capsys):
    failed, ended = toys(
        toy("hangs", "http.server 0", limit=1.5 / 60),
        toy("breaks", "no_such_module"),
        toy("works", "this"),
    )
    assert failed == 2
    assert [row["state"] for row in ended.values()] == ["stopped at its limit", "failed", "done"]
    assert ended["hangs"]["seconds"] < 30
    assert "No module named no_such_module" in (tmp_path / "out" / "log.txt").read_text()
    assert "Beautiful is better than ugly" in capsys.readouterr().out
    failed, ended = toys(toy("breaks", "this"), toy("works", "no_such_module"))  # which is not run again
    assert (failed, ended["breaks"]["state"], ended["works"]["state"]) == (1, "done", "done")


def test_a_part_too_long_for_the_remaining_minutes_gives_way(toys, capsys):
    _, ended = toys(toy("long", "this", minutes=3.0), toy("short", "this", minutes=0.1), minutes=1.0)
    assert [*ended] == ["short"]
    assert "long: put off, 3 minutes are more than the 0.4 that remain" in capsys.readouterr().out


def test_new_results_are_packed_and_earlier_ones_stay_packed(toys, tmp_path):
    results = tmp_path / "experiments" / "results"
    (results / "old.json").write_text("[]")
    os.utime(results / "old.json", (0, 0))
    write = tmp_path / "write_result.py"
    write.write_text("import sys\nopen(f'experiments/results/{sys.argv[1]}', 'w').write('[]')\n")
    toys(toy("one", "write_result one.json"))
    os.utime(results / "one.json", (0, 0))
    toys(toy("one", "write_result one.json"), toy("two", "write_result two.png"))
    with tarfile.open(tmp_path / "out" / "results.tar") as packed:
        assert packed.getnames() == ["experiments/results/one.json", "experiments/results/two.png"]


def test_what_the_machine_lacks_is_named(monkeypatch):
    with pytest.raises(BadInputError, match="finds no accelerator on this machine; --dry-run"):
        accelerator_needs.check_machine(dry_run=False)
    monkeypatch.setitem(accelerator_needs.WHEELS, "no_such.library", "no-such, its-friend")
    with pytest.raises(BadInputError, match="not installed here: no-such, its-friend; copy their wheels"):
        accelerator_needs.check_machine(dry_run=True)
    with pytest.raises(BadInputError, match="only='moco': there is no such part; use some of checks, moco_cifar10"):
        accelerator.chosen(Config(only=("moco",)))


def test_the_pages_list_of_wheels_is_the_checks():
    page = (ROOT / "experiments" / "bench" / "accelerator.md").read_text()
    for wheel in ("tyro, docstring_parser, typeguard", "grain, array_record, dm_tree", "tensorboardX"):
        assert wheel in accelerator_needs.WHEELS.values()
        assert all(f"`{name}`" in page for name in wheel.split(", "))


def test_every_part_is_a_command_of_this_project():
    for part in PARTS:
        module, *options = part.command.split()
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists() or module == "experiments.bench"
        if module == "experiments.bench":
            assert options[0] in bench.BENCHES
            assert part.bar in (bench.BENCHES[options[0]].bar[1], "a step takes 50 times as long")


def test_the_convolutions_of_a_resnet50_are_counted():
    try:
        counted = convolutions.convolutions(50, 224)
    except harness.MissingPeerError as missing:
        pytest.skip(str(missing))
    assert sum(counted.values()) == 53
    multiplications = sum(
        count * np.prod(each.kernel) * (each.input[1] // each.stride) ** 2 for each, count in counted.items()
    )
    assert multiplications == pytest.approx(4.087e9, rel=1e-3)  # torchvision states 4.09 GFLOPS with the classifier


def test_differences_are_relative_and_what_is_not_finite_differs():
    wanted = {"a": np.array([3.0, 4.0]), "b": np.array([1e-8])}
    assert device_checks.compare(wanted, wanted) == 0
    assert device_checks.compare(wanted | {"a": np.array([3.0, 4.5])}, wanted) == pytest.approx(0.1)
    assert device_checks.compare(wanted | {"b": np.array([2e-8])}, wanted) == pytest.approx(1)
    assert device_checks.compare(wanted | {"a": np.array([np.nan, 4.0])}, wanted) == float("inf")


def test_a_failed_check_is_named_in_the_table(tmp_path):
    row = {"error": 1e-7, "tolerance": 1e-5, "passed": True}
    found = {
        "environment": ON_GPU | {"date": "2026-11-27", "commit": "abc"},
        "matmul_teraflops": 700.0,
        "copy_gigabytes_per_second": 2900.0,
        "checks": [row | {"name": "InfoNCE"}, row | {"name": "BERT step", "error": 1e-6}],
    }
    path = tmp_path / "checks-a.json"
    path.write_text(json.dumps(found))
    assert "2 passed; nearest to its tolerance: BERT step, 1e-06 of 1e-05" in device_checks.as_markdown([path])
    found["checks"][0] |= {"error": 1.0, "passed": False}
    path.write_text(json.dumps(found))
    assert "| failed: InfoNCE |" in device_checks.as_markdown([path])
    assert device_checks.as_markdown([]) == "Not run."


def test_a_known_device_has_a_peak():
    assert machine.peak("1 x NVIDIA H100 80GB HBM3") == 989e12
    assert machine.peak("4 x NVIDIA A100-SXM4-80GB") == 312e12
    assert machine.peak("1 x x86_64 CPU") == 0
