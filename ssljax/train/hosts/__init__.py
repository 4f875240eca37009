"""The processes of a run: signals, the workdir's lock, heartbeats, and exiting together."""
