"""Convolution kernels for CPUs alone, faster there than XLA's own.

GPUs and TPUs never run them: there every convolution is `jax.lax.conv_general_dilated`, whatever this package would do.
"""
