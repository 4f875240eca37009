"""Where compiled programs are kept, and that a second process finds them there."""

import os
import subprocess
import sys

import jax
import pytest

from ssljax.run import compile_cache

PROGRAM = """
import jax, jax.numpy as jnp
from ssljax import compile_cache
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


def test_what_jax_was_told_comes_first(restored, tmp_path):
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
