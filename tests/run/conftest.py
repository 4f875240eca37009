"""The data of the experiments' tests, for the tests of a run."""

from tests.experiments.conftest import arrays, folder, prepared, small_berts

__all__ = ["arrays", "folder", "prepared", "small_berts"]
