"""`ssljax plan` on the command line: what it prints and writes, and one sentence with exit code 2 for what fails."""

import functools
import importlib.util
import json
import subprocess

import pytest

from ssljax.cli import main as commands
from ssljax.plan import children, command, making
from tests.plan import answers


@pytest.fixture
def canned(monkeypatch):
    asked = answers.Asked()
    monkeypatch.setattr(command.making, "make", functools.partial(making.make, ask=asked))
    return asked


def refused(capsys, *arguments):
    """The sentence that the command ends with."""
    with pytest.raises(SystemExit) as left:
        commands.main(["plan", *arguments])
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert not any("Traceback" in line for line in said)
    return said[-1]


@pytest.mark.usefixtures("canned")
def test_prints_a_table_and_writes_the_same_as_json(capsys, tmp_path):
    file = tmp_path / "plan.json"
    commands.main(["plan", "bert_large", "--topology", "v5e-16", "--json", str(file), "--", "--bfloat16", "--remat"])
    printed = capsys.readouterr()
    assert printed.out.startswith("bert_large --bfloat16 --remat on v5e-16: 16 chips (4x4)")
    assert "Compiling bert_large (length 128) for v5e-16" in printed.err
    plan = json.loads(file.read_text())
    assert (plan["experiment"], plan["topology"], plan["chips"]) == ("bert_large", "v5e-16", 16)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_the_recipes_options_follow_two_dashes(canned):
    commands.main(["plan", "moco_v2_imagenet", "--topology", "v4-16", "--", "--batch-size", "512"])
    (request,) = canned.requests
    assert request["options"] == ["--batch-size", "512"]


@pytest.mark.usefixtures("canned")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bert_large",), "give CHIP-NUMBER such as v5e-16"),
        (("bert_large", "--topology", "v7-8"), "the chips are v4, v5e, v5p, v6e"),
        (("bert_large", "--topology", "v5e-12"), "there are v5e-1, v5e-4, v5e-8"),
        (("bert_larger", "--topology", "v5e-16"), "unknown recipe experiments/bert_larger.py"),
        (("bert_large", "--topology", "v5e-16", "--json", "no/such/folder/plan.json"), "the folder does not exist"),
        (("demo", "--topology", "v5e-4", "--", "--temperature", "0"), "temperature=0"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, capsys):
    assert words in refused(capsys, *arguments)


def test_without_libtpu_it_says_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name))
    assert refused(capsys, "demo", "--topology", "v5e-4").endswith("is missing; pip install 'ssljax[plan]'.")


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, "ABORTED: The TPU is already in use by process with pid 7.\n", "libtpu is locked by another process"),
        (1, "Internal error when accessing libtpu multi-process lockfile. Run ...\n", "libtpu is locked by another"),
        (-11, "", r"libtpu 9.9 crashed while compiling (signal 11)"),
        (1, "Traceback (most recent call last):\n  File x\nValueError: it broke.\n\n", "failed: ValueError: it broke."),
        (1, "", "the compilation failed: it said nothing."),
    ],
)
def test_a_failed_compilation_is_one_sentence(code, said, words, monkeypatch, capsys):
    monkeypatch.setattr(children, "libtpu_version", lambda: "9.9")
    monkeypatch.setattr(children.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, code, "", said))
    assert words in refused(capsys, "demo", "--topology", "v5e-4")


def test_the_child_gets_what_libtpu_needs_and_keeps_what_was_set():
    found = children.environment({"HOME": "/home", "LIBTPU_INIT_ARGS": "--flag", "PYTHONPATH": "mine"})
    assert found["HOME"] == "/home"
    assert found["JAX_PLATFORMS"] == "cpu"
    assert found["LIBTPU_INIT_ARGS"].startswith("--flag --")
    assert found["PYTHONPATH"].endswith(":mine")
