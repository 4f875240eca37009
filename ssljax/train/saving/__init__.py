"""The parts of checkpointing: files, a manifest of hashes, the copy on the host, and which steps are kept."""
