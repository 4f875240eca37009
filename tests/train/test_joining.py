"""How the processes of a run find each other."""

import jax
import pytest

from ssljax.train.hosts import joining


@pytest.mark.parametrize(
    ("variables", "platforms", "chips", "joins"),
    [
        ({}, None, False, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None, False, False),  # a description of a slice, as `ssljax plan` gives it
        ({}, None, True, True),  # a slice made with gcloud exports nothing: jax asks the metadata server
        ({}, "tpu,cpu", True, True),
        ({}, "cpu", True, False),  # something small on one host of a slice would wait for the others
        ({"SLURM_NTASKS": "1"}, "cpu", False, False),
        ({"SLURM_NTASKS": "4"}, "cpu", False, True),
    ],
)
def test_hosts_are_joined_where_jax_can_find_them(monkeypatch, variables, platforms, chips, joins):
    calls = _hosts(monkeypatch, variables, platforms, chips)
    joining.start_hosts(heartbeat_timeout=7)
    assert calls == ([((), {"heartbeat_timeout_seconds": 7})] if joins else [])


def test_hosts_are_joined_as_the_environment_says_and_once(monkeypatch):
    named = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    calls = _hosts(monkeypatch, named, None, True)
    joining.start_hosts()
    assert calls == [(("host:1", 2, 1), {"heartbeat_timeout_seconds": 100})]
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    joining.start_hosts()
    assert len(calls) == 1


def test_a_tpu_without_a_slice_runs_alone(monkeypatch):
    calls = _hosts(monkeypatch, {}, None, True, ValueError("coordinator_address should be defined."))
    joining.start_hosts()
    assert len(calls) == 1


def _hosts(monkeypatch, variables, platforms, chips, fails=None):
    """What `jax.distributed.initialize` is called with, on a host that looks like this."""
    for name in ("JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []

    def initialize(*args, **options):
        calls.append((args, options))
        if fails:
            raise fails

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(joining.cloud_tpu_init, "running_in_cloud_tpu_vm", chips)
    monkeypatch.setattr(joining, "_platforms", lambda: platforms)
    return calls
