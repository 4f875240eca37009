"""Run by test_processes.py, once for each process: train the toy on all devices of both and print the losses."""

import json
import sys

from ssljax import sharding

sharding.start_hosts()

import jax  # noqa: E402

from tests.train import toy  # noqa: E402

assert jax.process_count() == 2
assert jax.device_count() == 8
with sharding.use_mesh(sharding.make_mesh()):
    print(json.dumps(toy.losses(sys.argv[1])))
