"""Nothing that is read can run code: no pickle, and nothing like it, anywhere on a load path."""

import ast
import io
from pathlib import Path

import numpy as np
import pytest

from ssljax.types import BadInputError
from ssljax.vision.sources import open_source

ROOT = Path(__file__).parents[2]
# modules and functions that run, or can be made to run, what they read
REFUSED = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.load",
    "pandas.read_pickle",
    "numpy.lib.format.read_array",
    "numpy.load",
    "eval",
    "exec",
    "compile",
    "__import__",
}
SAFE = {"numpy.load", "numpy.lib.format.read_array"}  # unless told otherwise, as a test below shows


def dangers(source):
    """What a module imports or calls of `REFUSED`, by any name it gives to it."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                (alias.asname or alias.name.split(".")[0]): (alias.name if alias.asname else alias.name.split(".")[0])
                for alias in node.names
            }
            found += [alias.name for alias in node.names if refused(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in whole if refused(name) and name not in SAFE]
    allowed = set()
    for node in ast.walk(tree):
        # a third argument without its name would be allow_pickle, and ** could hold it
        plain = isinstance(node, ast.Call) and len(node.args) < 3 and all(word.arg for word in node.keywords)
        if isinstance(node, ast.Call) and plain and dotted(node.func, names) in SAFE:
            allowed.add(node.func)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and node not in allowed:
            name = dotted(node, names)
            if name and refused(name):
                found.append(name)
        # a pickle by the back door
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(f"allow_pickle={ast.unparse(node.value)}")
    return found


def dotted(node, names):
    """`np.load` -> numpy.load, by what the module imports; None for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        above = dotted(node.value, names)
        return above and f"{above}.{node.attr}"
    return None


def refused(name):
    parts = name.split(".")
    return any(".".join(parts[:end]) in REFUSED for end in range(1, len(parts) + 1))


def test_no_module_reads_pickles_or_runs_what_it_reads():
    paths = [path for folder in ("ssljax", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 80
    assert {str(path.relative_to(ROOT)): found for path in paths if (found := dangers(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    import cloudpickle as c",
        "from joblib import load",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "import numpy\nread = numpy.load",
        "import numpy as np\nnp.load('x', None, True)",
        "import numpy as np\nnp.load('x', **options)",
        "import numpy as np\nnp.lib.format.read_array(f, True, {})",
        "import torch\nw = torch.load('x', weights_only=True)",
        "import yaml\nyaml.load(text)",
        "import marshal",
        "eval('1')",
        "def f(text):\n    exec(text)",
        "anything(allow_pickle=True)",
    ],
)
def test_the_walk_sees(source):
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import numpy as np\nnp.lib.format.read_array(f, allow_pickle=False)",
        "import re\nre.compile('x')\nmodel.eval()",
        "import json\njson.load(f)",
        "from numpy import load\nload('x', allow_pickle=False)",
        "import numpy as np\nnp.load('x')",
    ],
)
def test_the_walk_lets_pass(source):
    assert dangers(source) == []


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("archive", [True, False])
def test_numpy_refuses_pickles_unless_told_otherwise(archive, tmp_path):
    file, harm = tmp_path / "x", np.array([Payload(tmp_path / "run")], object)
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=True, a=harm) if archive else np.save(stream, harm, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"), file.open("rb") as stream:
        np.asarray(np.load(stream)["a"] if archive else np.load(stream))
    array = io.BytesIO(b"\x93NUMPY" + file.read_bytes().partition(b"\x93NUMPY")[2])
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.lib.format.read_array(array)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["train_images", "train_labels", "class_names", "train_jpeg", "train_offsets"])
def test_a_pickle_in_an_archive_is_refused_and_not_run(key, tmp_path):
    arrays = {"train_images": np.zeros((2, 2, 2), np.uint8)}
    if key in ("train_jpeg", "train_offsets"):
        arrays = {"train_jpeg": np.zeros(9, np.uint8), "train_offsets": np.array([0, 9])}
    arrays[key] = np.array([Payload(tmp_path / "run")] * 2, object)
    np.savez(tmp_path / "x.npz", allow_pickle=True, **arrays)
    with pytest.raises(BadInputError, match="without pickles"):
        open_source(f"arrays:{tmp_path}/x.npz", "train")
    assert not (tmp_path / "run").exists()
    # the payload is a live one
    np.load(tmp_path / "x.npz", allow_pickle=True)[key]
    assert (tmp_path / "run").exists()
