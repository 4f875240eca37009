"""XLA's flags for quick compilation, which is most of the time that tests take."""

from importlib.metadata import version

QUICK = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    # each fusion in half the time; versions that do not know a flag end the process
    QUICK += " --xla_cpu_use_fusion_emitters=false"


def quick(devices: int) -> str:
    """XLA_FLAGS for so many emulated devices."""
    return f"{QUICK} --xla_force_host_platform_device_count={devices}"
