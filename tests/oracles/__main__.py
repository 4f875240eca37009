"""`python -m tests.oracles [NAME ...]`: write golden arrays."""

import sys

from tests import oracles

oracles.write(sys.argv[1:])
