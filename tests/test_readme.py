"""The README and the guides: examples run, links and commands exist, tables are those of the records."""

import doctest
import json
import re
from pathlib import Path

import pytest

import experiments.__main__

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", *(ROOT / "experiments").rglob("*.md"), *(ROOT / "ssljax").rglob("*.md")])
GUIDES = {f"ssljax/{folder}/README.md" for folder in ("methods", "plan", "run", "text", "vision")}
# the guide's own example, and a name that stands for any
MADE_UP = re.compile(r"NAME|agree")
on_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_the_example_runs():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_the_example_is_fifteen_lines_besides_imports():
    lines = [line for line in README.splitlines() if line.startswith((">>> ", "... "))]
    assert len([line for line in lines if "import " not in line]) <= 15


def test_the_readme_links_every_guide():
    assert {*GUIDES, *experiments.__main__.PAGES} - {"README.md"} <= set(re.findall(r"\]\(([^)]+)\)", README))


@on_each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve()
        assert not Path(path).is_absolute(), link
        assert target.exists(), link
        if heading:
            assert heading in _headings(target), link


def _headings(page):
    """The names by which a page's headings are linked."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@on_each_page
def test_named_files_and_modules_exist(page):
    text = page.read_text()
    for path in re.findall(r"`((?:ssljax|experiments)/[\w./]+)`", text):
        assert MADE_UP.search(path) or (ROOT / path).exists(), path
    for module in re.findall(r"python -m (experiments(?:\.\w+)+)", text):
        place = ROOT / module.replace(".", "/")
        exists = place.with_suffix(".py").exists() or (place / "__main__.py").exists()
        assert MADE_UP.search(module) or exists, module


def test_the_tables_are_up_to_date():
    for path, text in experiments.__main__.pages().items():
        assert path.read_text() == text, f"{path}: run make results"


def test_the_guides_figures_of_eurosat_are_the_records():
    found = json.loads((ROOT / "experiments/results/eurosat.json").read_text())["results"]
    columns = ("knn", "linear_1_per_class", "linear_5_per_class", "linear_10_per_class", "linear")
    page = (ROOT / "ssljax/vision/README.md").read_text()
    for row, cells in found.items():
        written = re.search(rf"^\| {row} \| (.*) \|$", page, re.M)
        assert written, row
        for cell, column in zip(written[1].split(" | "), columns, strict=True):
            values = cells[column] if isinstance(cells[column], list) else [cells[column]]
            assert [float(value) for value in cell.split(" ± ")] == pytest.approx(values, abs=0.06)
