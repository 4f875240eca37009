"""An experiment on two processes with one workdir: stopped by a signal to one of them, resumed, as on one process."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ssljax.train.logging import read_metrics
from tests.xla_flags import quick

OPTIONS = """
    --batch-size 16 --width 4 --stage-sizes 1 --queue-size 64 --embedding-dim 8 --epochs 10
    --log-every 1 --save-every 2 --eval-every 5 --no-compiler-check
"""


def command(data, workdir, count):
    """The processes of one run, on four devices in all."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for index in range(count):
        # none of them is killed, so the second start may find what the first one compiled
        env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick(devices=4 // count)}
        if count > 1:
            env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
            env |= {"JAX_PROCESS_ID": str(index)}
        words = [
            sys.executable,
            "-m",
            "experiments.moco_cifar10",
            *OPTIONS.split(),
            "--data",
            data,
            "--workdir",
            str(workdir),
        ]
        started.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return started


def ends(processes, codes):
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == codes, "\n".join(words[-2000:] for words in said)
    return said


@pytest.mark.slow
def test_two_processes_stop_together_and_are_resumed(tmp_path):
    rng, content = np.random.default_rng(0), {}
    for split, count in (("train", 48), ("test", 20)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 120, (count, 32, 32, 3)) + 120 * labels[:, None, None, None]
        content |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    np.savez(tmp_path / "two.npz", **content)
    data = f"arrays:{tmp_path / 'two.npz'}"
    metrics = tmp_path / "both" / "metrics.jsonl"
    processes = command(data, tmp_path / "both", 2)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(read_metrics(metrics)) < 6:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends(processes, [75, 75])
    stopped = max(row["step"] for row in read_metrics(metrics))
    assert 5 <= stopped < 30
    said = ends(command(data, tmp_path / "both", 2), [0, 0])
    assert f"Resuming {tmp_path / 'both'} from step" in said[0]
    assert "Resuming" not in said[1]
    ends(command(data, tmp_path / "one", 1), [0])
    both, one = (
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["step"]]
        for name in ("both", "one")
    )
    assert len(both) == 30
    np.testing.assert_allclose(both[:5], one[:5], rtol=1e-5)
    np.testing.assert_allclose(both, one, rtol=1e-4)  # thirty steps let differences grow
