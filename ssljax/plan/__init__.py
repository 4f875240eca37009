"""What a recipe would need on a TPU slice: its train step compiled for it on any machine, and estimates from that."""
