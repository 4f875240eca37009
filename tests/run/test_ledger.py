"""The list of experiments: docstrings in, table out, recorded figures written back."""

import json

from ssljax.run import ledger as rows

MODULE = '''"""A method on a set.

Paper: A title, arXiv 0000.00000
Figure: 60.6
Ours: not run
Command: python -m experiments.some
Cost: 1 hour
Differs: nothing, but this line
    goes on.
"""
'''
RECORD = {
    "results": {"untrained": {"knn": 20.04}, "moco": {"knn": 61.26, "linear": 70.0}},
    "options": {"epochs": 3},
    "environment": {"date": "2026-01-02", "device": "1 x CPU", "commit": "abc"},
}


def directory(tmp_path, records=None):
    folder = tmp_path / "experiments"
    (folder / "results").mkdir(parents=True)
    (folder / "some.py").write_text(MODULE)
    (folder / "__main__.py").write_text('"""Not an experiment."""')
    begin, end = rows.marks("results")
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    if records:
        (folder / "results" / "some.json").write_text(json.dumps(records))
    return folder


def test_a_row_is_read_from_the_docstring(tmp_path):
    (row,) = rows.read(directory(tmp_path))
    assert (row.name, row.title, row.ours) == ("some", "A method on a set", "not run")
    assert row.fields["Figure"] == "60.6"
    assert row.fields["Differs"] == "nothing, but this line goes on."


def test_a_record_is_described_with_what_was_changed(tmp_path):
    (row,) = rows.read(directory(tmp_path, [RECORD]))
    assert row.ours == "knn 61.3, linear 70.0 against untrained knn 20.0 with epochs 3 (2026-01-02, 1 x CPU, abc)"


def test_writing_puts_figures_into_the_docstring_and_the_readme_and_twice_changes_nothing(tmp_path):
    folder = directory(tmp_path, [RECORD])
    rows.write(folder, rows.read(folder))
    (row,) = rows.read(folder)
    assert row.fields["Ours"] == row.ours
    assert row.fields["Command"] == "python -m experiments.some"
    readme, module = (tmp_path / "README.md").read_text(), (folder / "some.py").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "| `some`: A method on a set | 60.6 | knn 61.3" in readme
    assert "old" not in readme
    rows.write(folder, rows.read(folder))
    assert (tmp_path / "README.md").read_text() == readme
    assert (folder / "some.py").read_text() == module


def test_the_list_for_a_terminal(tmp_path):
    text = rows.as_text(rows.read(directory(tmp_path)))
    assert "some: A method on a set" in text
    assert "paper: 60.6" in text
    assert "ours: not run" in text


def test_of_equal_runs_the_newest_is_shown_and_of_different_ones_each(tmp_path):
    newer = {**RECORD, "environment": {**RECORD["environment"], "commit": "def", "seconds": 90.0}}
    other = {**RECORD, "options": {}}
    (row,) = rows.read(directory(tmp_path, [RECORD, other, newer]))
    assert "abc" not in row.ours.split("; ")[0]
    assert row.ours.count("knn 61.3") == 2
    assert "(1.5 min, 2026-01-02, 1 x CPU, def)" in row.ours


def test_a_tool_is_listed_but_is_no_result(tmp_path):
    folder = directory(tmp_path, [RECORD])
    (folder / "tool.py").write_text(MODULE.replace("Ours: not run\n", ""))
    found = rows.read(folder)
    assert "tool: A method on a set" in rows.as_text(found)
    assert "`tool`" not in rows.as_markdown(found)
    before = (folder / "tool.py").read_text()
    rows.write(folder, found)
    assert (folder / "tool.py").read_text() == before
