"""Processes among each other and with the machine: signals, locks, heartbeats, leaving together."""
