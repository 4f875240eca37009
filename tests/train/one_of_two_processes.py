"""Run by test_processes.py, once for each process: train the toy on all devices of both and print the losses."""

import json
import sys

import jax

from ssljax import sharding
from ssljax.train.hosts import joining
from tests.train import toy

if __name__ == "__main__":
    joining.start_hosts()
    assert jax.process_count() == 2
    assert jax.device_count() == 8
    with sharding.use_mesh(sharding.make_mesh()):
        print(json.dumps(toy.losses(sys.argv[1])))
