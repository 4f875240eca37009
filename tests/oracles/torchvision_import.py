"""torchvision beside a CPU torch: the compiled operators do not load; without their names it will not import."""

import functools
import importlib
import importlib.util
import re
from pathlib import Path

# a torch.library.Library takes its definitions back when it is collected
KEPT = []


@functools.cache
def load_torchvision():
    """Import torchvision (models, transforms, functional API; not its compiled operators) and return it."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None, "torchvision is not installed"
    assert spec.origin is not None, "torchvision is not a regular package"
    folder = Path(spec.origin).parent
    if not _operators_load(folder):
        source = (folder / "_meta_registrations.py").read_text()
        names = set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', source))
        library = torch.library.Library("torchvision", "FRAGMENT")
        KEPT.append(library)
        for name in sorted(names):
            library.define(f"{name}(Tensor x) -> Tensor")
    torchvision = importlib.import_module("torchvision")
    for part in ("models", "transforms.functional", "transforms.v2.functional"):
        importlib.import_module(f"torchvision.{part}")
    return torchvision


def _operators_load(folder: Path) -> bool:
    import torch

    compiled = sorted([*folder.glob("_C*.so"), *folder.glob("_C*.pyd")])
    try:
        torch.ops.load_library(str(compiled[0]))
    except (IndexError, OSError):
        return False
    return True
