"""The ledger: docstrings and records in, tables of a terminal, of the ledger's page and of the README out."""

import json

from ssljax.run import ledger

MODULE = '''"""A method on a set: how it began.

Paper: A title, arXiv 0000.00000
Figure: 60.6 (the repository)
Command: python -m experiments.some
Cost: 1 hour
Differs: nothing, but this line
    goes on.
"""


def build(config):
    """The experiment."""
'''
TOOL = MODULE.replace("60.6 (the repository)", "none").partition("\n\n\n")[0]
RECORD = {
    "results": {"untrained": {"knn": 20.04}, "moco": {"knn": 61.26, "linear_probe": 70.0}},
    "options": {"epochs": 3, "data": "arrays:other.npz"},
    "environment": {"date": "2026-01-02", "device": "1 x CPU", "commit": "abc"},
}
DATA = {"arrays:other.npz": "on other pictures"}


def directory(tmp_path, records=None, **modules):
    folder = tmp_path / "experiments"
    (folder / "results").mkdir(parents=True)
    for name, source in ({"some": MODULE} | modules).items():
        (folder / f"{name}.py").write_text(source)
        if records:
            (folder / "results" / f"{name}.json").write_text(json.dumps(records))
    (folder / "__main__.py").write_text('"""Not an experiment."""')
    return folder


def with_recipe(tmp_path, records, **recipe):
    return [row._replace(recipe=recipe) for row in ledger.read(directory(tmp_path, records))]


def changed(**parts):
    return RECORD | {name: RECORD.get(name, {}) | values for name, values in parts.items()}


def test_a_row_is_read_from_the_docstring(tmp_path):
    (row,) = ledger.read(directory(tmp_path))
    assert (row.name, row.title, row.ours) == ("some", "A method on a set: how it began", "not run")
    assert row.fields["Figure"] == "60.6 (the repository)"
    assert row.fields["Differs"] == "nothing, but this line goes on."


def test_a_record_is_described_with_what_was_changed(tmp_path):
    (row,) = ledger.read(directory(tmp_path, [RECORD]))
    assert row.ours == (
        "knn 61.3, linear probe 70.0 against untrained knn 20.0 with data arrays:other.npz, epochs 3 "
        "(2026-01-02, 1 x CPU, abc)"
    )


def test_the_list_for_a_terminal(tmp_path):
    text = ledger.as_text(ledger.read(directory(tmp_path)))
    assert "some: A method on a set" in text
    assert "paper: 60.6" in text
    assert "ours: not run" in text


def test_of_equal_runs_the_newest_is_shown_and_of_different_ones_each(tmp_path):
    newer = changed(environment={"commit": "def", "seconds": 90.0}, last_metrics={"examples_per_second": 1234.5})
    other = RECORD | {"options": {}}
    (row,) = ledger.read(directory(tmp_path, [RECORD, other, newer]))
    assert "abc" not in row.ours.split("; ")[0]
    assert row.ours.count("knn 61.3") == 2
    assert "(1.5 min, 1,234 examples/s, 2026-01-02, 1 x CPU, def)" in row.ours


def test_the_ledger_has_every_record(tmp_path):
    newer = changed(environment={"commit": "def", "seconds": 90.0}, last_metrics={"examples_per_second": 1234.5})
    *_, first, second = ledger.as_markdown(with_recipe(tmp_path, [RECORD, newer], epochs=200), DATA).splitlines()
    head = "| [`some`](some.py): A method on a set: how it began | 60.6 (the repository) "
    assert first == (
        f"{head}| knn 61.3, linear probe 70.0 (reduced, on other pictures) | untrained knn 20.0 "
        "| data arrays:other.npz, epochs 3 | - | 2026-01-02, 1 x CPU, abc |"
    )
    assert second.endswith("| 1.5 min, 1,234 examples/s | 2026-01-02, 1 x CPU, def |")


def test_the_ledger_has_what_was_not_run(tmp_path):
    lines = ledger.as_markdown(ledger.read(directory(tmp_path)), DATA).splitlines()
    assert lines[2].endswith("| 60.6 (the repository) | not run | - | - | - | - |")
    assert len({line.count("|") for line in lines}) == 1


def test_the_readmes_table_has_what_was_run_in_short(tmp_path):
    options = {"epochs": 3, "width": 8, "seed": 1, "stem": "x", "data": "arrays:other.npz", "temperature": 0.1}
    untrained, trained = {"knn": 20.04}, {"knn": 61.26}
    record = RECORD | {"results": {"untrained": untrained, "moco": trained}, "last_metrics": {"epoch": 3.0}}
    found = with_recipe(tmp_path, [record | {"options": options}], epochs=200)
    *_, line = ledger.summary(found, DATA).splitlines()
    assert line == (
        "| `some`: A method on a set | knn 61.3 (reduced, on other pictures) | untrained 20.0 | 60.6 "
        "| 3 epochs, data arrays:other.npz, width 8, seed 1, stem x, 1 more | 1 x CPU, 2026-01-02 |"
    )


def test_the_readme_says_where_nothing_was_run(tmp_path):
    assert ledger.summary(ledger.read(directory(tmp_path)), DATA) == "Not run."


def test_a_run_is_reduced_where_something_is_less_than_the_recipes():
    recipe = {"epochs": 200, "stage_sizes": [2, 2], "train_examples": None, "seed": 3}

    def caveat(**options):
        return ledger.caveat(RECORD | {"options": options}, recipe, DATA)

    assert caveat(epochs=199) == caveat(stage_sizes=[1, 1]) == caveat(train_examples=9) == "reduced"
    assert caveat(epochs=800) == caveat(stage_sizes=[3, 4]) == caveat(seed=1) == caveat(width=1) == ""
    assert caveat(data="arrays:other.npz") == "on other pictures"


def test_a_tool_is_listed_but_is_no_result(tmp_path):
    measures = TOOL.replace("Figure: none", "Figure: 1.0")
    found = ledger.read(directory(tmp_path, [RECORD], tool=TOOL, measures=measures))
    assert [(row.name, row.measures, len(row.records)) for row in found] == [
        ("measures", True, 1),
        ("some", True, 1),
        ("tool", False, 0),
    ]
    assert "tool: A method on a set" in ledger.as_text(found)
    assert "`tool`" not in ledger.as_markdown(found, DATA) + ledger.summary(found, DATA)
    assert "`measures`" in ledger.as_markdown(found, DATA)


def test_a_table_replaces_what_stands_between_its_marks():
    begin, end = ledger.marks("one")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    assert ledger.with_table(page, "new", "one") == f"before\n{begin}\nnew\n{end}\nafter\n"
    assert ledger.with_table(f"a\n{begin}\n{end}\n", "new", "one") == f"a\n{begin}\nnew\n{end}\n"
