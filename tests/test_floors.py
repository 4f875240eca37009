import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"types", "losses", "queue", "ema", "diagnostics"},
    {"sharding", "optim", "models", "data"},
    {"methods"},
    {"train", "evals", "interop"},
    {"run"},
    {"vision", "text"},
    {"plan", "cli", "__main__"},
    {"experiments"},
]
FIELDS = FLOORS[5]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
METHODS_MAY_USE = FLOORS[0] | {"sharding", "methods"}
GROUND_LIBRARIES = {"jax", "numpy"}
LAZY = {
    "PIL",
    "grain",
    "matplotlib",
    "orbax",
    "safetensors",
    "sklearn",
    "tensorboardX",
    "tensorflow_datasets",
}
LAZY |= {"sentencex", "tokenizers", "tyro"}


def imports(source, module):
    """`(dotted name, whether it runs on import)` of every import of a module, those in functions included.

    `from a import b` counts as `a.b`, since b may be a module.
    """
    found = []

    def walk(node, eager):
        if isinstance(node, ast.Import):
            found.extend((alias.name, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.extend((f"{base}.{alias.name}", eager) for alias in node.names)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        lazy |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            walk(child, eager and not lazy)

    walk(ast.parse(source), True)
    return found


def house_part(name):
    """`ssljax.queue.init` -> queue, `experiments.moco` -> experiments; None for other libraries."""
    parts = name.split(".")
    if parts[0] == "experiments":
        return "experiments"
    if parts[0] == "ssljax" and len(parts) > 1 and (parts[1] == "__main__" or not parts[1].startswith("__")):
        return parts[1]
    return None


def violations(source, module):
    here = house_part(module)
    found = imports(source, module)
    libraries = {name.split(".")[0] for name, _ in found} - set(sys.stdlib_module_names)
    heavy = [name for name, eager in found if eager and name.split(".")[0] in LAZY]
    problems = [f"{module} imports {name} when it is imported" for name in heavy]
    if here is None:
        return problems + [f"{module} imports {name}" for name, _ in found]
    if here not in FLOOR_OF:
        return [*problems, f"{module} is on no floor"]
    for part in sorted({part for name, _ in found if (part := house_part(name))}):
        if FLOOR_OF.get(part, 99) > FLOOR_OF[here]:
            problems.append(f"{module} imports {part} from above")
        elif here in FIELDS and part in FIELDS - {here}:
            problems.append(f"{module} imports {part}, another field")
        elif here == "methods" and part not in METHODS_MAY_USE:
            problems.append(f"{module} imports {part}, which arrives as an argument")
    if FLOOR_OF[here] == 0:
        problems += [f"{module} imports {name}" for name in libraries - GROUND_LIBRARIES - {"ssljax"}]
    return problems


def modules():
    for folder in ("ssljax", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            # a package's relative imports start from its own name, so __init__ stays for the walk
            yield ".".join(parts), path


def test_no_file_imports_from_above_its_floor():
    found = dict(modules())
    assert {"ssljax.__init__", "ssljax.types", "ssljax.losses.contrastive"} <= found.keys()
    problems = [violations(path.read_text(), module) for module, path in found.items()]
    assert [problem for found in problems for problem in found] == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("ssljax.queue", "def f():\n    from ssljax import sharding", "sharding from above"),
        ("ssljax.queue", "import optax", "ssljax.queue imports optax"),
        ("ssljax.losses.clustering", "def f():\n    import flax.struct", "imports flax"),
        ("ssljax.losses.clustering", "from ..optim import cosine", "optim from above"),
        ("ssljax.losses.__init__", "from . import new\nfrom ..train import step", "train from above"),
        ("ssljax.methods.moco", "from ssljax.models import resnet", "arrives as an argument"),
        ("ssljax.methods.moco", "from ssljax.optim import lars", "arrives as an argument"),
        ("ssljax.data.loader", "import ssljax.evals.knn", "evals from above"),
        ("ssljax.data.loader", "from ssljax.vision import sources", "vision from above"),
        ("ssljax.run.experiment", "from ssljax import text", "text from above"),
        ("ssljax.vision.task", "from ssljax.text import corpus", "another field"),
        ("ssljax.cli", "def f():\n    import experiments.moco", "experiments from above"),
        ("ssljax.extra", "", "on no floor"),
        ("ssljax.types", "import ssljax.extra", "extra from above"),
        ("ssljax.__init__", "import ssljax.types", "imports ssljax.types"),
        ("ssljax.vision.sources", "import tensorflow_datasets as tfds", "when it is imported"),
        (
            "ssljax.text.vocabulary",
            "try:\n    from tokenizers import Tokenizer\nexcept ImportError: ...",
            "is imported",
        ),
        ("ssljax.train.checkpoint", "class A:\n    import orbax.checkpoint", "when it is imported"),
    ],
)
def test_the_walk_sees(module, source, problem):
    assert any(problem in found for found in violations(source, module)), violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ssljax.queue", "import dataclasses\nimport jax.numpy as jnp\nfrom ssljax.types import Array"),
        ("ssljax.diagnostics", "from ssljax.losses.contrastive import l2_normalize"),
        ("ssljax.losses.__init__", "from . import contrastive"),
        ("ssljax.methods.moco", "from ssljax import queue, sharding\nfrom flax import struct"),
        ("ssljax.vision.sources", "def f():\n    import tensorflow_datasets"),
        ("ssljax.text.vocabulary", "if TYPE_CHECKING:\n    from tokenizers import Tokenizer"),
        ("ssljax.run.results", "from ssljax import __version__"),
        ("experiments.moco", "from ssljax.run import experiment\nfrom experiments import common"),
    ],
)
def test_the_walk_lets_pass(module, source):
    assert violations(source, module) == []


def test_losses_load_no_training_library():
    code = """
import sys
import ssljax.diagnostics, ssljax.ema, ssljax.losses, ssljax.queue, ssljax.types
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "jax" in loaded
    assert not loaded & (LAZY | {"flax", "optax", "chex", "tensorflow", "torch"})


def test_the_package_itself_holds_few_files():
    assert len(list((ROOT / "ssljax").glob("*.py"))) <= 7


def test_what_serves_any_field_says_nothing_of_pictures():
    for folder in ("data", "evals", "run", "train"):
        for path in sorted((ROOT / "ssljax" / folder).rglob("*.py")):
            assert '"image"' not in path.read_text(), path
