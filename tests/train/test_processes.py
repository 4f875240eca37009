"""Two real processes with jax.distributed on loopback train as one does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.train import toy
from tests.xla_flags import quick


def run_two(module: str, *arguments: str) -> list[str]:
    """The last line that each of the two processes prints."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = []
    for index in range(2):
        env = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": quick(devices=4),
        }
        command = [sys.executable, "-m", module, *arguments]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [output.strip().splitlines()[-1] for output, _ in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr"])  # of moco see tests/faults/test_two_hosts.py
def test_two_processes_have_the_losses_of_one(method):
    first, second = map(json.loads, run_two("tests.train.one_of_two_processes", method))
    assert first == second
    np.testing.assert_allclose(first, toy.losses(method), rtol=1e-5)
