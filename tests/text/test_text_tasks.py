"""The tasks of GLUE from small files of each kind, and from what is in ../shared/data."""

import types
from pathlib import Path

import numpy as np
import pytest

from ssljax.text import text_tasks
from ssljax.text.text_tasks import TASKS, find_task, read_task
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError

GLUE = Path(__file__).parents[2] / ".." / "shared" / "data" / "glue"

# the header lines of GLUE's files, a row of fields under each, and what is read from it
FILES = {
    "CoLA": ("gj04\t1\t\tThey said so.\n", "They said so.", None, 1),
    "SST-2": ('sentence\tlabel\n"quoted tab-less \t0\n', '"quoted tab-less ', None, 0),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA b.\tC d.\n", "A b.", "C d.", 1),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tnews\tf\t2012\t1\tx\ty\tA plane.\tAn air plane.\t4.25\n",
        "A plane.",
        "An air plane.",
        4.25,
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tHow?\t0\n", "Why?", "How?", 0),
    "MNLI": (
        "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tfiction\tIt is.\tIt was.\tneutral\tcontradiction\n",
        "It is.",
        "It was.",
        2,
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel\n3\tWho?\tHe.\tnot_entailment\n", "Who?", "He.", 1),
    "RTE": ("index\tsentence1\tsentence2\tlabel\n3\tYes.\tNo.\tentailment\n", "Yes.", "No.", 0),
    "WNLI": ("index\tsentence1\tsentence2\tlabel\n3\tYes.\tNo.\t1\n", "Yes.", "No.", 1),
}


def test_every_task_has_a_file_here():
    assert FILES.keys() == TASKS.keys()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_glues_own_files(name, line_end, tmp_path):
    text, first, second, label = FILES[name]
    split = TASKS[name].dev[0]
    (tmp_path / f"{split}.tsv").write_bytes(text.replace("\n", line_end).encode())
    for source in (str(tmp_path), f"tsv:{tmp_path}"):
        found = read_task(TASKS[name], source, split)
        assert found.first == [first]
        assert found.second == (None if second is None else [second])
        assert found.labels.tolist() == [label]
        assert found.labels.dtype == (np.float32 if name == "STS-B" else np.int32)


def test_the_folder_of_the_tasks_name_and_text_that_looks_like_lines(tmp_path):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_bytes('label\tsentence\n1\ta\u2028b\x0bc "d\n\n0\té\n'.encode("utf-8-sig"))
    found = read_task(find_task("SST-2"), str(tmp_path), "dev")
    assert (found.first, found.labels.tolist()) == (['a\u2028b\x0bc "d', "é"], [1, 0])


def test_lines_that_qqps_own_file_has_cut_in_two_are_left_out(tmp_path):
    text = FILES["QQP"][0] + "1\t1\t2\tWhy is\nthat?\tHow?\t1\n2\t1\t2\tWho?\tHe?\t1\n"
    (tmp_path / "train.tsv").write_text(text)
    assert read_task(TASKS["QQP"], str(tmp_path), "train").first == ["Why?", "Who?"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("SST-2", b"text\tlabel\nx\t1\n", r"no column 'sentence' in its first line, but text, label"),
        ("SST-2", b"", "no column 'sentence' in its first line, but nothing"),
        ("SST-2", b"sentence\tlabel\na\t0\nb\t2\n", r"line 3: the label '2' is none of SST-2's, which are 0, 1\."),
        ("SST-2", b"sentence\tlabel\na\t0\nb\n", r"line 3: 1 of the 2 fields"),
        ("SST-2", b"sentence\tlabel\n", "has no examples"),
        ("SST-2", b"sentence\tlabel\nab\xffc\t0\n", r"not UTF-8 at byte 17"),
        ("CoLA", b"gj04\t1\t\tYes.\ngj04\t3\t\tNo.\n", "line 2: the label '3'"),
        ("MNLI", b"sentence1\tsentence2\tgold_label\na\tb\t-\n", "entailment, neutral, contradiction"),
        ("STS-B", b"sentence1\tsentence2\tscore\na\tb\t5.5\n", r"line 2: the score '5\.5'"),
        ("STS-B", b"sentence1\tsentence2\tscore\na\tb\tnan\n", r"line 2: the score 'nan'"),
        ("STS-B", b"sentence1\tsentence2\tscore\na\tb\tgood\n", r"line 2: the score 'good'"),
    ],
)
def test_bad_files_are_one_sentence(name, content, words, tmp_path):
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(BadInputError, match=words) as error:
        read_task(TASKS[name], str(tmp_path), "dev")
    assert str(tmp_path / "dev.tsv") in str(error.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match=r"no dev\.tsv of SST-2"):
        read_task(TASKS["SST-2"], str(tmp_path), "dev")
    with pytest.raises(BadInputError, match="task=SST-5: unknown task; use one of CoLA"):
        find_task("SST-5")
    with pytest.raises(BadInputError, match="tfds build glue/sst2"):
        read_task(TASKS["SST-2"], "tfds:glue/sst2", "dev", data_dir=str(tmp_path))


def test_inputs_are_packed():
    vocabulary = Vocabulary((*SPECIALS, "a", "b", "c", "[", "]", "mask"))
    task = TASKS["RTE"]
    examples = text_tasks.Examples(["a [MASK]", "b"], ["c", "a b c"], np.array([1, 0], np.int32))
    found = text_tasks.inputs(vocabulary, examples, 9)
    pad, unk, cls, sep, mask = range(5)
    # a special word inside a sentence is text
    assert found["tokens"].tolist() == [[cls, 5, 8, 10, 9, sep, 7, sep, pad], [cls, 6, sep, 5, 6, 7, sep, pad, pad]]
    assert found["segments"].tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 0, 0]]
    assert found["lengths"].tolist() == [8, 7]
    assert found["label"].tolist() == [1, 0]
    assert (task.kind, TASKS["STS-B"].kind) == ("classification", "regression")
    assert {unk, mask}.isdisjoint(found["tokens"].flat)


def test_scores_of_one_and_of_two_splits():
    outputs = np.eye(3)[[0, 1, 2, 2, 2]]
    score = text_tasks.scorer(TASKS["MNLI"], [np.array([0, 1, 0]), np.array([2, 2])])
    assert score(outputs) == {"accuracy": pytest.approx(200 / 3), "accuracy dev_mismatched": 100}
    score = text_tasks.scorer(TASKS["STS-B"], [np.array([1.0, 2.0, 4.0])])
    assert score(np.array([[1.0], [2.0], [4.0]])) == {"pearson": pytest.approx(100), "spearman": pytest.approx(100)}


@pytest.mark.skipif(not GLUE.exists(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("name", "split", "count", "share"),
    [
        ("SST-2", "train", 67349, 0.558),
        ("SST-2", "dev", 872, 0.509),
        ("CoLA", "train", 8551, 0.704),
        ("CoLA", "dev", 1043, 0.691),
        ("MRPC", "train", 4076, 0.675),
        ("MRPC", "test", 1725, 0.665),
    ],
)
def test_the_real_files(name, split, count, share):
    found = read_task(TASKS[name], str(GLUE), split)
    assert len(found.first) == len(found.labels) == count
    assert found.labels.mean() == pytest.approx(share, abs=1e-3)
    assert all(found.first)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))

    def info(self):
        features = {"premise": tfds.features.Text(), "hypothesis": tfds.features.Text()}
        features |= {"label": tfds.features.ClassLabel(num_classes=3)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def examples():
        for i in range(3):
            yield i, {"premise": f"Prémise {i}.", "hypothesis": "So.", "label": i}

    body = {"VERSION": tfds.core.Version("1.0.0"), "_info": info, "url_infos": None, "__module__": __name__}
    body |= {"_split_generators": lambda self, manager: {"train": examples(), "validation_matched": examples()}}
    body |= {"_generate_examples": examples}
    bases, unlisted = (tfds.core.GeneratorBasedBuilder,), {"skip_registration": True}
    builder = types.new_class("TinyPairs", bases, unlisted, lambda namespace: namespace.update(body))
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_tfds(data_dir):
    found = read_task(TASKS["MNLI"], "tfds:tiny_pairs", "dev_matched", data_dir=data_dir)
    assert sorted(zip(found.first, found.labels.tolist(), strict=True)) == [(f"Prémise {i}.", i) for i in range(3)]
    assert found.second == ["So."] * 3
    with pytest.raises(BadInputError, match="no split 'validation_mismatched'"):
        read_task(TASKS["MNLI"], "tfds:tiny_pairs", "dev_mismatched", data_dir=data_dir)
    with pytest.raises(BadInputError, match="no feature 'sentence' but"):
        read_task(TASKS["SST-2"], "tfds:tiny_pairs", "train", data_dir=data_dir)
