import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.bench import __main__ as bench
from experiments.bench import harness, machine, table
from experiments.bench.harness import Measured, MissingPeerError, Ready, Side
from ssljax.types import BadInputError

ROOT = Path(__file__).parent.parent.parent


def counting(folder, name, value=None, work=1.0):
    """A side whose rounds append its name and its process to a file."""

    def round():
        with Path(folder, "order").open("a") as file:
            file.write(f"{name} {os.getpid()} {len(os.sched_getaffinity(0))} {os.environ.get('OMP_NUM_THREADS')}\n")
        return value

    return Ready(round, work=work, facts={"name": name})


def sleeping(seconds):
    return Ready(lambda: time.sleep(seconds))


def without_a_library():
    harness.need("a_library_that_nobody_has")
    return Ready(lambda: None)


def failing():
    raise ValueError("the reason")


def failing_later():
    return Ready(failing)


def ending():
    return Ready(lambda: os._exit(3))


def add(a, b):
    return a + b


def test_the_sides_take_turns_in_processes_that_stay(tmp_path):
    sides = [Side(name, counting, {"folder": str(tmp_path), "name": name}) for name in "ab"]
    measured, missing = harness.compare(sides, rounds=3, warm=1)
    lines = [line.split() for line in (tmp_path / "order").read_text().splitlines()]
    assert [line[0] for line in lines] == ["a", "b"] * 4
    processes = {name: {line[1] for line in lines if line[0] == name} for name in "ab"}
    assert len(processes["a"]) == len(processes["b"]) == 1
    assert processes["a"] != processes["b"]
    assert str(os.getpid()) not in processes["a"] | processes["b"]
    assert ([len(side.values) for side in measured], missing) == ([3, 3], [])
    assert [side.facts for side in measured] == [{"name": "a"}, {"name": "b"}]


def test_seconds_are_those_of_a_round_and_a_rounds_own_value_comes_first(tmp_path):
    given = Side("given", counting, {"folder": str(tmp_path), "name": "given", "value": 7.5, "work": 2.0})
    measured, _ = harness.compare([Side("slow", sleeping, {"seconds": 0.2}), given], rounds=2, warm=0)
    assert all(0.2 <= value < 2 for value in measured[0].values)
    assert (measured[1].values, measured[1].work) == ([7.5, 7.5], 2.0)


def test_a_missing_library_leaves_out_its_side_and_the_others_go_on(tmp_path):
    sides = [Side("here", counting, {"folder": str(tmp_path), "name": "here"}), Side("peer", without_a_library)]
    measured, missing = harness.compare(sides, rounds=1)
    assert [side.label for side in measured] == ["here"]
    assert len(missing) == 1
    assert "peer: a_library_that_nobody_has is not here" in missing[0]
    assert "pip install '.[oracles]'" in missing[0]
    with pytest.raises(MissingPeerError):
        harness.need("a_library_that_nobody_has")


@pytest.mark.parametrize(
    ("start", "said"), [(failing, "the reason"), (failing_later, "the reason"), (ending, "its process has ended")]
)
def test_a_side_that_fails_is_an_error_with_its_reason(start, said):
    with pytest.raises(RuntimeError, match=f"(?s)bad.*{said}"):
        harness.compare([Side("bad", start)], rounds=1)


def test_call_returns_what_a_process_of_its_own_found():
    assert harness.call(add, 2, 3) == 5


def test_sides_run_on_the_cores_and_threads_that_the_driver_was_pinned_to(tmp_path):
    code = (
        "from experiments.bench import harness\nfrom tests.experiments import test_bench\n"
        "if __name__ == '__main__':\n"
        "    harness.pin(1)\n"
        f"    options = dict(folder={str(tmp_path)!r}, name='a')\n"
        "    harness.compare([harness.Side('a', test_bench.counting, options)], rounds=1, warm=0)\n"
    )
    script = tmp_path / "pinned.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script)], check=True, cwd=ROOT, env=environment, timeout=120)
    assert (tmp_path / "order").read_text().split()[2:] == ["1", "1"]


def test_an_entry_has_medians_spread_ratios_and_the_share_of_the_ceiling():
    ours = Measured("ours", [1.0, 2.0, 4.0], work=10.0, flops=100e9, facts={})
    # a round of the peer gets through half as much
    peer = Measured("peer", [1.0, 2.0, 1.0], work=5.0, flops=0.0, facts={"attention": "sdpa"})
    ceilings = [Measured("slow", [1.0], 1, 80e9, {}), Measured("fast", [0.5], 1, 100e9, {})]
    found = table.entry([ours, peer], ceilings, "images/s")
    assert (found["gigaflops"], found["ceiling_gigaflops_per_second"], found["rounds"]) == (100.0, 200.0, 3)
    assert found["sides"]["ours"] == {
        "median": 2.0, "least": 1.0, "greatest": 4.0, "rate": 5.0, "share_of_ceiling": 0.25
    }  # fmt: skip
    assert found["sides"]["peer"] == {
        "median": 1.0, "least": 1.0, "greatest": 2.0, "rate": 5.0, "share_of_ceiling": 0.25, "ratio": 2.0,
        "ratio_least": 0.5, "ratio_greatest": 2.0, "attention": "sdpa",
    }  # fmt: skip


def test_the_file_keeps_other_entries_and_becomes_the_readmes_table(tmp_path):
    path, where = tmp_path / "results" / "bench.json", {"date": "2026-11-24", "device": "1 x toy", "commit": "abc"}
    sides = [Measured("ours", [1.0, 1.0], 8.0, 0.0, {}), Measured("peer", [2.0, 3.0], 8.0, 0.0, {})]
    told = {"title": "Toy | step", "bar": ">= 1", "missing": [], "environment": where}
    for name in ("one", "two", "one"):
        table.put(path, name, table.entry(sides, [], "images/s") | told)
    assert list(json.loads(path.read_text())) == ["one", "two"]
    lines = table.as_markdown([path]).splitlines()
    assert len(lines) == 4
    assert lines[2] == lines[3]
    assert lines[2] == (
        "| Toy \\| step | 8 images/s | peer: 3.2 | 2.50 (2.00 to 3.00) | met: >= 1 | 2026-11-24, 1 x toy, abc |"
    )
    assert "ratio 2.50 (2.00 to 3.00)" in table.as_text("one", table.read(path)["one"])


def test_the_files_name_is_the_devices():
    cpu = {"platform": "cpu", "device": "1 x x86_64 CPU", "cores": 2}
    assert table.device_name(cpu) == "x86-64-cpu-2"
    assert table.device_name({"platform": "gpu", "device": "1 x NVIDIA H100 80GB", "cores": 2}) == "nvidia-h100-80gb"


def test_the_command_measures_writes_and_names_what_is_missing(tmp_path, monkeypatch, capsys):
    sides = [
        Side("ssljax", counting, {"folder": str(tmp_path), "name": "a", "value": 1.0}),
        Side("peer", without_a_library),
    ]
    toy = bench.Bench("Toy", "s", (">= 1", ">= 2"), lambda gpu, config: sides, ceiling=True)
    monkeypatch.setattr(bench, "BENCHES", {"toy": toy, "big": toy._replace(gpu_only=True)})
    monkeypatch.setattr(harness, "pin", lambda cores: None)
    monkeypatch.setattr(machine, "ceilings", lambda gpu: [Side(machine.LABELS[0], sleeping, {"seconds": 0.01})])
    out = bench.run(bench.Config(rounds=2, out=str(tmp_path / "out.json")))
    found = json.loads(out.read_text())
    assert list(found) == ["toy"]
    assert list(found["toy"]["sides"]) == ["ssljax"]
    assert found["toy"]["bar"] == ">= 1"
    assert found["toy"]["environment"]["versions"]["jax"]
    said = capsys.readouterr().out
    assert "big: this one is for a GPU" in said
    assert "a_library_that_nobody_has" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [({"names": ("other",)}, "other: there is no such benchmark; use one of"), ({"rounds": 0}, "rounds=0")],
)
def test_wrong_options_are_refused_in_a_sentence(change, said):
    with pytest.raises(BadInputError, match=said):
        bench.run(dataclasses.replace(bench.Config(), **change))


def test_every_benchmark_has_sides_and_their_modules_load_no_library():
    for name, each in bench.BENCHES.items():
        sides = each.sides(each.gpu_only, bench.Config())
        assert len({side.label for side in sides}) == len(sides) >= 2, name
    # a peer's process imports these modules, and would hold what they load
    code = "import sys, experiments.bench.__main__; print({'jax', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
