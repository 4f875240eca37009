"""Self-supervised pre-training in JAX/Flax for TPUs and GPUs."""

__version__ = "0.1.0"
