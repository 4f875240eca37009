"""From data to batches on the devices: sources, pictures, loader, views."""
