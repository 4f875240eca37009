"""The command lines: `ssljax ...` and `python -m experiments.NAME`."""
