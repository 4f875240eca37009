"""State, step, loop, checkpoints, logs and the report of a run."""
