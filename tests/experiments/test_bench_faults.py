"""The benchmark of faults: its parts with small counts, what it finds when there is something to find, its table."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench import fault_files, faults, tiny, trials
from ssljax.train import checkpoint
from ssljax.train.saving import manifest
from tests.xla_flags import QUICK

ROOT = Path(__file__).parents[2]
FLAGS = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}


def python(*words, code: int | None = 0):
    """A process where jax has not begun anything yet, ending with `code`, or any; returns what it or its error says."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=os.environ | FLAGS, cwd=ROOT, capture_output=True, text=True)
    assert code in (done.returncode, None), done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout if done.returncode == 0 else done.stderr


def test_the_parts_that_take_seconds_and_their_entries(tmp_path):
    out, counts = tmp_path / "faults.json", ["--damages", 12, "--fuzz", 24, "--megabytes", 8]
    kept = entry("200 kill -9", "all equal")
    out.write_text(json.dumps({"kills": kept, "fuzz": entry("old", "old")}))
    said = python("-m", "experiments.bench.faults", "--only", "fuzz", "damages", "--out", out, *counts)
    found = json.loads(out.read_text())
    assert found["kills"] == kept
    assert (found["damages"]["figures"]["trials"], found["fuzz"]["figures"]["trials"]) == (12, 24)
    for name in ("damages", "fuzz"):
        assert found[name]["passed"]
        assert found[name]["figures"]["bad"] == 0
        assert found[name]["environment"].keys() >= {"date", "commit", "device", "versions", "seconds"}
        assert found[name]["result"] in said
    assert set(found["damages"]["figures"]["outcomes"]) <= {
        "older one taken",
        "harmless, bit-equal",
        "refused in a sentence",
    }


@pytest.mark.slow
def test_the_other_parts(tmp_path):
    out = tmp_path / "faults.json"
    counts = ["--devices", 1, 2, "--soak", 150, "--megabytes", 8]
    # 0 or 1: how long a small save takes, and what a short run needs of memory, is not the point
    python("-m", "experiments.bench.faults", "--only", "devices", "soak", "saving", "--out", out, *counts, code=None)
    found = json.loads(out.read_text())
    assert found["devices"]["passed"], found["devices"]["result"]
    assert found["devices"]["figures"]["pairs"] == 4
    assert found["soak"]["figures"]["steps"] == 150
    assert max(found["soak"]["figures"]["files"]) < 50
    assert 0 < found["saving"]["figures"]["hashing"] < found["saving"]["figures"]["save"]


def test_a_restore_that_does_not_look_is_found_out(tmp_path):
    """Without the checks of a restore some damage goes unseen, and the benchmark says so."""
    found = json.loads(python("-m", "tests.experiments.test_bench_faults", "blind", tmp_path).splitlines()[-1])
    assert found["bad"] == found["outcomes"]["silent wrong"] > 0
    assert found["examples"][0]["outcome"] == "silent wrong"


def blind(folder):
    checkpoint.snapshot.first_mismatch = lambda arrays, leaves: ""
    manifest.check_files = lambda directory, body: None
    print(json.dumps(fault_files.damages(40, folder)))


def test_a_trial_that_ends_its_process_is_a_crash_and_the_rest_goes_on(tmp_path):
    found = json.loads(python("-m", "tests.experiments.test_bench_faults", "crash", tmp_path).splitlines()[-1])
    assert found["trials"] == 9
    assert found["outcomes"] == {"crash": 2, "fine": 7}
    assert [one["trial"] for one in found["examples"]] == [3, 5]
    assert found["examples"][0]["code"] == -signal.SIGSEGV


def crash(folder):
    def ready():
        def trial(number):
            if number in (3, 5):
                os.kill(os.getpid(), signal.SIGSEGV)
            return {"outcome": "fine", "kind": "", "file": ""}

        return trial

    print(json.dumps(trials.run(9, folder, ready)))


def test_endings_differ_by_their_first_difference():
    whole = {"the last step": 6, "a leaf": {"w": ["f32", "aa"]}, "the loss of step": {5: "0x1p0", 6: "0x1p1"}}
    assert tiny.difference(whole, whole) == ""
    other = whole | {"a leaf": {"w": ["f32", "ab"]}}
    assert tiny.difference(other, whole) == "a leaf w: ['f32', 'ab'], not ['f32', 'aa']"
    lost = whole | {"the loss of step": {6: "0x1p1"}}
    assert tiny.difference(lost, whole) == "the loss of step 5: None, not 0x1p0"
    assert tiny.difference(whole | {"the last step": 5}, whole) == "the last step: 5, not 6"


def entry(done, result, passed=True):
    where = {"date": "2026-01-02", "device": "1 x CPU", "commit": "abc", "versions": {}, "seconds": 1.0}
    return {"done": done, "result": result, "passed": passed, "figures": {}, "seed": 0, "environment": where}


def test_the_table(tmp_path):
    path = tmp_path / "faults.json"
    head = ["| part | what was done | result | date, machine |", "|---|---|---|---|"]
    assert faults.as_markdown(path).splitlines() == head
    path.write_text(json.dumps({"fuzz": entry("many files", "a | b"), "kills": entry("two", "lost", passed=False)}))
    assert faults.as_markdown(path).splitlines() == [
        *head,
        "| kills | two | failed: lost | 2026-01-02, 1 x CPU, abc |",
        "| fuzz | many files | a \\| b | 2026-01-02, 1 x CPU, abc |",
    ]
    assert faults.as_text(path).splitlines()[0] == "kills: FAILED"


def test_every_result_is_put_in_words():
    good = {"wrong": [], "blows": 3, "runs": 2, "equal": 2, "phases": {"training": 3}, "codes": {"75": 3}}
    good |= {"most_lost": 1.5, "longest": 2.0}
    assert "(training 3)" in faults.PARTS["kills"].done(good)
    assert "2 of 2 runs end bit-equal" in faults.PARTS["kills"].result(good)
    assert "exit codes 75 3 after at most 2.0 s" in faults.PARTS["signals"].result(good)
    bad = good | {"wrong": ["moco: the loss of step 5: None", "another"]}
    assert faults.PARTS["signals"].result(bad).endswith("; 2 wrong, such as: moco: the loss of step 5: None")
    assert faults.PARTS["signals"].wrong(bad) == 2


def test_an_unknown_part_is_refused():
    code = "import sys; from experiments.bench import faults; sys.argv[1:] = ['--only', 'kils']; faults.main()"
    said = python("-c", code, code=2)
    assert said.startswith("error: kils: there is no such part or run; there are kills, signals, ")


if __name__ == "__main__":
    {"blind": blind, "crash": crash}[sys.argv[1]](Path(sys.argv[2]))
