"""Convolution kernels for CPUs alone, where some of XLA's are slow."""
