"""What a checkpoint is made of: the files, their manifest of hashes, the copy on the host, which ones stay."""
