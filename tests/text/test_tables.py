"""Tables of text: what is read is what was written, and what is wrong is named with its line."""

import csv
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssljax.cli.arguments import check_output
from ssljax.text.tables import FORMATS, read_table, write_table
from ssljax.types import BadInputError

WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=12)
PLAIN = WORDS.map(lambda text: "x" + text.translate({9: "t", 10: "n", 13: "r"}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_csv_and_json_lines_bring_back_any_text(folder, rows):
    columns = {"a text": [row[0] for row in rows], 'b"': [row[1] for row in rows]}
    for ending in ("csv", "jsonl"):
        write_table(folder / f"t.{ending}", columns)
        assert read_table(str(folder / f"t.{ending}")).columns == columns
    with (folder / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [dict(zip(columns, row, strict=True)) for row in rows]


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=5))
def test_tabs_separate_and_quotation_marks_are_text(folder, rows):
    columns = {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}
    write_table(folder / "t.tsv", columns)
    assert read_table(str(folder / "t.tsv")).columns == columns


def test_lines_are_those_of_the_file_and_compressed_ones_are_read(tmp_path):
    text = 'text,n\r\n"two\nlines",1\r\n\r\n"a ""b""",2\r\n'
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(("\ufeff" + text).encode()))
    table = read_table(str(tmp_path / "t.csv.gz"))
    assert table.columns == {"text": ["two\nlines", 'a "b"'], "n": ["1", "2"]}
    assert table.lines == [2, 5]


def test_values_of_json_are_their_words(tmp_path):
    rows = [{"text": "a", "stars": 3, "new": True}, {"new": None, "stars": 4.5, "text": "b\u2028c"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows))
    table = read_table(str(tmp_path / "t.jsonl"))
    assert table.columns == {"text": ["a", "b\u2028c"], "stars": ["3", "4.5"], "new": ["true", "null"]}
    assert table.lines == [1, 3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", "a", r"t\.txt: give a table as \.csv, \.tsv, \.jsonl"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", r"t\.csv, line 3: 3 fields and 2 columns"),
        ("t.csv", 'a,b\n1,2\n1,"2\n', r"t\.csv, line 3: unexpected end of data"),
        ("t.csv", "a,a\n1,2\n", r"t\.csv has the column 'a' twice"),
        ("t.csv", "a,b\n", r"t\.csv has no rows below"),
        ("t.tsv", "", r"t\.tsv has no rows below"),
        ("t.tsv", "a\tb\n1\n", r"t\.tsv, line 2: 1 fields and 2 columns"),
        ("t.jsonl", '{"a": 1}\n{"b": 1}\n', r"t\.jsonl, line 2 has the keys b and the first one a"),
        ("t.jsonl", '{"a": 1}\n[1]\n', r"t\.jsonl, line 2 is not a JSON object"),
        ("t.jsonl", '{"a": 1}\n{\n', r"t\.jsonl, line 2 is not JSON"),
        ("t.csv", b"a,b\n\xff,1\n", r"t\.csv is not UTF-8 at byte 4"),
    ],
)
def test_what_is_wrong_is_named(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInputError, match=said):
        read_table(str(tmp_path / name))


def test_a_missing_file_and_column_and_a_place_to_write(tmp_path):
    with pytest.raises(BadInputError, match=r"none\.csv: cannot read the text: No such file"):
        read_table(str(tmp_path / "none.csv"))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInputError, match=r"label=c: .*t\.csv has no such column, but a, b\."):
        read_table(str(tmp_path / "t.csv")).column("c", "label")
    for name, said in (("t.csv", "exists"), ("t.txt", "a name that ends with"), ("no/t.csv", "a folder that exists")):
        with pytest.raises(BadInputError, match=said):
            check_output(tmp_path / name, *FORMATS)
