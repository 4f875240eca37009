"""Runs and sets in a bucket: killed, damaged, resumed, exported, read; and directories that are refused."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from etils import epath

from experiments.bench import tiny
from ssljax.run import workdir as workdirs
from ssljax.train import buckets
from ssljax.train.logging import RunLog, read_metrics
from ssljax.train.saving import manifest
from ssljax.types import BadInputError
from ssljax.vision.sources import open_source
from tests.vision import test_sources_tfds
from tests.xla_flags import QUICK

data_dir = test_sources_tfds.data_dir  # a prepared set, as a fixture
STEPS = 5 * tiny.INTERVAL


class Bucket:
    """A server of this machine that speaks Google's protocol; `address` is the bucket's."""

    address = "gs://bucket"

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            self.server = f"http://localhost:{probe.getsockname()[1]}"
        command = [sys.executable, "-m", "tests.bucket_server", self.server.rpartition(":")[2]]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        output = self.process.stdout
        assert output
        with output:
            assert output.readline() == "ready\n"
        self.environment = {
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.server,
            "STORAGE_EMULATOR_HOST": self.server,
            "TENSORSTORE_GCS_HTTP_URL": self.server,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def names(self, prefix):
        """Of all objects that begin with `prefix`."""
        with urllib.request.urlopen(f"{self.server}/storage/v1/b/bucket/o?prefix={prefix}") as answer:
            return [item["name"] for item in json.load(answer).get("items", [])]

    def read(self, name):
        name = urllib.parse.quote(name, safe="")
        with urllib.request.urlopen(f"{self.server}/download/storage/v1/b/bucket/o/{name}?alt=media") as answer:
            return answer.read()

    def write(self, name, content):
        address = (
            f"{self.server}/upload/storage/v1/b/bucket/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
        )
        request = urllib.request.Request(address, content, {"Content-Type": "application/octet-stream"})
        urllib.request.urlopen(request).close()

    def steps(self, run):
        """The committed ones, oldest first."""
        found = [name.split("/") for name in self.names(f"{run}/checkpoints/")]
        return sorted({int(parts[2]) for parts in found if parts[3:] == [manifest.NAME] and parts[2].isdecimal()})

    def copy(self, run, folder):
        for name in self.names(f"{run}/"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
        return folder / run


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    made = Bucket()
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def start(bucket, log, *arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK} | bucket.environment
    with log.open("a") as file:
        return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=file, stderr=file)


def complete(bucket, log, *arguments):
    assert start(bucket, log, *arguments).wait(300) == 0, log.read_text()[-3000:]


@pytest.mark.slow
def test_a_run_in_a_bucket_is_killed_and_damaged_and_ends_as_a_local_one(bucket, tmp_path):
    run = tiny.moco(tiny.make_pictures(tmp_path / "pictures.npz"))
    options, log = (*run.options, *tiny.COMMON, "--epochs", str(STEPS // tiny.INTERVAL)), tmp_path / "log.txt"
    anywhere = ("-m", f"experiments.{run.name}", *options, "--workdir")
    complete(bucket, log, *anywhere, str(tmp_path / "local"))
    command = (*anywhere, f"{bucket.address}/run")

    process, until = start(bucket, log, *command), time.monotonic() + 200
    while max(bucket.steps("run"), default=0) < 2 * tiny.INTERVAL:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    older, newest = bucket.steps("run")[-2:]
    assert tiny.INTERVAL <= older < newest < STEPS
    data = max(bucket.names(f"run/checkpoints/{newest}/"), key=lambda name: len(bucket.read(name)))
    content = bytearray(bucket.read(data))
    content[len(content) // 2] ^= 1
    bucket.write(data, bytes(content))
    complete(bucket, log, *command, "--profile", "2")

    said = log.read_text()
    assert f"Checkpoint {newest} is damaged" in said
    assert f"Resuming {bucket.address}/run from step {older}/{STEPS}." in said
    copy = bucket.copy("run", tmp_path)
    assert not tiny.difference(tiny.ending(copy), tiny.ending(tmp_path / "local"))
    places = {str(path.relative_to(copy)).split("/")[0] for path in copy.rglob("*")}
    assert {"report.html", "metrics.jsonl", "backbone.safetensors", "profile", "checkpoints-damaged"} <= places
    assert any(name.startswith("events.") for name in places)
    assert not any(name.endswith((".partial", ".tmp")) for name in places)

    complete(bucket, log, *command)  # finished: shows its results
    export = ("export", str(tmp_path / "out"), "--run", f"{bucket.address}/run", "--to", "timm")
    complete(bucket, log, "-m", "ssljax", *export)
    found = (tmp_path / "out" / "backbone.safetensors").read_bytes()
    assert found == (tmp_path / "local" / "backbone.safetensors").read_bytes()


@pytest.mark.slow
def test_a_prepared_set_is_read_from_a_bucket(bucket, data_dir, tmp_path):
    source = open_source("tfds:tiny_colour", "train", data_dir=data_dir)
    for path in Path(data_dir).rglob("*.*"):
        if path.is_file():
            bucket.write(f"tfds/{path.relative_to(data_dir)}", path.read_bytes())
    read = "from ssljax.vision.sources import open_source; "
    read += f"source = open_source('tfds:tiny_colour', 'train', data_dir='{bucket.address}/tfds'); "
    read += "print(*(record['image'].tobytes().hex() for record in source))"
    complete(bucket, tmp_path / "log.txt", "-c", read)
    found = (tmp_path / "log.txt").read_text().splitlines()[-1].split()
    assert [bytes.fromhex(picture) for picture in found] == [record["image"].tobytes() for record in source]


def test_a_bucket_that_is_not_there_is_one_sentence(bucket, tmp_path):
    log, command = tmp_path / "log.txt", ("-m", "experiments.ten_images", "--workdir", "gs://another/run")
    assert start(bucket, log, *command).wait(120) == 2
    assert log.read_text() == (
        "error: workdir=gs://another/run cannot be written to (there is no such bucket); choose another.\n"
    )


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BadInputError, match=r"^run=s3://bucket/run: a library is missing \(.*s3fs.*\); install it"):
        buckets.check_reachable("s3://bucket/run", "run")


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_directory_that_cannot_be_made_is_one_sentence(name, tmp_path):
    (tmp_path / "file").write_text("words")
    with pytest.raises(BadInputError, match=r"^workdir=.* cannot be written to \(Not a directory\); choose another"):
        workdirs.check(str(tmp_path / name), object(), "demo")


def test_a_new_directory_is_not_made_by_checking_it(tmp_path):
    buckets.check_writable(str(tmp_path / "some" / "run"))
    assert not list(tmp_path.iterdir())


def test_a_mirror_copies_what_has_changed(tmp_path):
    (tmp_path / "bucket").mkdir()
    mirror = buckets.Mirror(epath.Path(tmp_path / "bucket"), interval=0.01)
    (mirror.local / "a").write_text("1")
    (mirror.local / "a.partial").write_text("12")
    mirror.sync()
    assert (tmp_path / "bucket" / "a").read_text() == "1"
    (tmp_path / "bucket" / "a").unlink()
    mirror.sync()
    assert not (tmp_path / "bucket" / "a").exists()
    (mirror.local / "b").write_text("2")
    until = time.monotonic() + 20
    while not (tmp_path / "bucket" / "b").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    (mirror.local / "a").write_text("12")
    mirror.close()
    assert (tmp_path / "bucket" / "a").read_text() == "12"
    assert not mirror.local.exists()
    assert {path.name for path in (tmp_path / "bucket").iterdir()} == {"a", "b"}


def test_metrics_that_cannot_be_copied_do_not_end_the_run(tmp_path, capsys):
    log = RunLog(str(tmp_path), total_steps=2, start_step=0, title="test", show_bar=False)
    log.mirror = buckets.Mirror(epath.Path(tmp_path / "not there"))
    log.path = log.mirror.local / "metrics.jsonl"
    log.write(1, {"loss": 1.0})
    log.flush()
    log.close()
    assert capsys.readouterr().out.count(f"they are in {log.mirror.local}.") == 2
    assert read_metrics(log.path)[0]["loss"] == 1.0
    shutil.rmtree(log.mirror.local)


def test_trees_are_copied_and_a_missing_one_has_no_entries(tmp_path):
    source, target = epath.Path(tmp_path / "source"), epath.Path(tmp_path / "target")
    assert buckets.entries(source) == []
    (tmp_path / "source" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (source / name).write_text(name)
    buckets.copy_tree(source, target)
    assert {name: (target / name).read_text() for name in ("a", "deep/b")} == {"a": "a", "deep/b": "deep/b"}
    with buckets.local_copy(target) as here:
        assert here == Path(tmp_path / "target")
