"""Where compiled programs are kept, that a second process finds them there, and that checks are remembered."""

import os
import subprocess
import sys

import jax
import jaxlib
import pytest

from ssljax.run import compile_cache

PROGRAM = """
import jax, jax.numpy as jnp
from ssljax.run import compile_cache
compile_cache.SECONDS = 0.0
print(compile_cache.keep())
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
print(float(jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.full((64, 64), 0.01))))
print(len(hits))
"""


@pytest.fixture
def restored():
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    yield before["jax_compilation_cache_dir"]
    for name, value in before.items():
        jax.config.update(name, value)


def run(**environment):
    unset = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=unset | environment, capture_output=True, text=True, check=True)
    directory, value, hits = done.stdout.split("\n")[:3]
    return directory, float(value), int(hits), done.stderr


def test_a_second_process_finds_the_program_and_a_torn_file_only_costs_its_time(tmp_path):
    directory, value, hits, _ = run(XDG_CACHE_HOME=str(tmp_path))
    assert hits == 0
    assert directory == str(tmp_path / "ssljax" / os.path.basename(directory))
    assert os.stat(directory).st_mode & 0o077 == 0
    assert run(XDG_CACHE_HOME=str(tmp_path))[:2] == (directory, value)
    assert run(XDG_CACHE_HOME=str(tmp_path))[2] > 0
    torn = [path for path in (tmp_path / "ssljax").rglob("*-cache") if path.is_file()]
    assert torn
    for path in torn:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = run(XDG_CACHE_HOME=str(tmp_path))
    assert again[1] == value
    assert again[2] == 0


def test_what_jax_is_configured_with_comes_first(restored, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert compile_cache.keep() == str(tmp_path)
    assert compile_cache.keep(str(tmp_path / "own")) == str(tmp_path / "own")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")  # type: ignore[attr-defined]


def test_an_empty_name_keeps_nothing(restored):
    assert compile_cache.keep("") == ""
    assert jax.config.jax_compilation_cache_dir is None  # type: ignore[attr-defined]


def test_a_directory_that_cannot_be_made_is_named(restored, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert compile_cache.keep(str(tmp_path / "file" / "cache")) == ""
    assert f"{tmp_path}/file/cache cannot be written" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None  # type: ignore[attr-defined]


@pytest.fixture
def checks(monkeypatch):
    """How often a check ran, and `once` for it."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    runs = []

    def once(directory, name="a check"):
        compile_cache.once(str(directory), name, lambda: runs.append(name))
        return len(runs)

    return once


def test_a_check_is_remembered_by_its_name_and_what_compiles(checks, monkeypatch, tmp_path):
    assert checks(tmp_path / "new") == checks(tmp_path / "new") == 1
    (file,) = (tmp_path / "new").iterdir()
    assert file.read_text() == f"jaxlib {jaxlib.__version__} on cpu: a check passed\n"
    assert checks(tmp_path / "new", "another check") == 2
    assert checks(tmp_path / "other") == 3
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert checks(tmp_path / "new") == checks(tmp_path / "new") == 4
    monkeypatch.setenv("XLA_FLAGS", "")
    assert checks(tmp_path / "new") == 4
    monkeypatch.setattr(jaxlib, "__version__", "0.0.1")
    assert checks(tmp_path / "new") == 5


@pytest.mark.parametrize("directory", ["", "gs://bucket/cache"])
def test_without_a_local_directory_a_check_runs_each_time(checks, directory, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert checks(directory) == 1
    assert checks(directory) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"jaxlib", b"\xff\xfe\x00"])
def test_a_corrupt_file_is_written_anew(checks, content, tmp_path):
    checks(tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    assert checks(tmp_path) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [whole]
    assert checks(tmp_path) == 2


def test_what_cannot_be_read_or_written_fails_no_run(checks, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    assert checks(tmp_path / "file" / "cache") == 1
    checks(tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.unlink()
    file.mkdir()
    assert checks(tmp_path / "cache") == 3
    assert list((tmp_path / "cache").iterdir()) == [file]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache.Path, "write_bytes", full)
    assert checks(tmp_path / "full") == 4
    assert not list((tmp_path / "full").iterdir())


def test_a_check_that_fails_runs_again(checks, tmp_path):
    def fail():
        raise RuntimeError("wrong")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="wrong"):
            compile_cache.once(str(tmp_path), "a check", fail)
    assert not list(tmp_path.iterdir())
    assert checks(tmp_path) == 1
