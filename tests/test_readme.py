"""The README's example runs, and its commands and links exist."""

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_the_example_is_fifteen_lines_besides_imports():
    lines = [line for line in README.splitlines() if line.startswith((">>> ", "... "))]
    assert len([line for line in lines if "import " not in line]) <= 15


def test_named_files_and_modules_exist():
    for path in re.findall(r"`((?:ssljax|experiments)/[\w./]+)`", README) + re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (experiments(?:\.\w+)+)", README):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module
