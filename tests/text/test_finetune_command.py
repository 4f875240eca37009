"""`ssljax finetune` and `ssljax predict`: the classifier that is kept is transformers', bit for bit in its answers."""

import csv
import json
import re

import jax
import numpy as np
import pytest

from ssljax.cli import main as commands
from ssljax.interop import huggingface
from ssljax.models import bert
from ssljax.text import own_task, tables
from ssljax.text.vocabulary import SPECIALS
from ssljax.types import BadInputError
from tests.oracles import torchvision_import

WORDS = (*SPECIALS, "good", "bad", "fine", "poor", "film", "a", "the", "very", ".", "##ly", "!")
NUMBERS = ("--seeds", 2, "--epochs", 12, "--learning-rate", 0.01, "--batch-size", 16, "--devices", 2)
SHAPE = bert.BertShape(len(WORDS), 16, 1, 2, 32, positions=24, dropout=0.0, attention_dropout=0.0)


def ssljax(*arguments):
    commands.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A directory of an untrained BERT in Hugging Face's format."""
    directory = tmp_path_factory.mktemp("models") / "encoder"
    params = jax.eval_shape(lambda: {"encoder": _params()})
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.float32(rng.normal(float(path[-1].key == "scale"), 0.3, leaf.shape)), params
    )
    huggingface.save_pretrained(directory, params, SHAPE, WORDS, True)
    return directory


def _params():
    ids = np.zeros((1, 1), np.int32)
    return bert.bert(SHAPE).init(jax.random.key(0), ids, ids, ids[0])[0]


def reviews(count, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        liked = int(rng.integers(2))
        words = rng.choice(["film", "a", "the", "very"], 3).tolist()
        words.insert(int(rng.integers(4)), str(rng.choice([["bad", "poor"], ["good", "fine"]][liked])))
        rows.append((" ".join(words) + ".", ['no, "never"', "yes"][liked], 100 + 50 * liked))
    return {"review": [row[0] for row in rows], "stars": [row[1] for row in rows], "price": [row[2] for row in rows]}


@pytest.fixture(scope="module")
def classifier(encoder, tmp_path_factory):
    """The directory of a classifier, the printed lines apart."""
    folder = tmp_path_factory.mktemp("own")
    tables.write_table(folder / "mine.csv", reviews(300))
    ssljax(
        "finetune", "--run", encoder, "--train", folder / "mine.csv", "--text", "review", "--label", "stars",
        "--out", folder / "stars", *NUMBERS,
    )  # fmt: skip
    return folder / "stars"


def answers(model, texts):
    """What transformers' own classifier says of some texts."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torchvision_import.load_torchvision()
    theirs = transformers.BertForSequenceClassification.from_pretrained(model).eval()
    words = transformers.BertTokenizer.from_pretrained(model)
    with torch.no_grad():
        found = theirs(**words(*texts, padding=True, truncation=True, max_length=24, return_tensors="pt")).logits
    return theirs.config, found.numpy()


def test_it_learns_and_stands_beside_words_and_the_most_frequent_label(classifier):
    found = json.loads((classifier / "results.json").read_text())
    assert list(found) == ["majority", "bag of words", "fine-tuned"]
    assert found["fine-tuned"].keys() == {"accuracy", "accuracy sd", "macro f1", "macro f1 sd", "seeds"}
    assert found["fine-tuned"]["accuracy"] > 90 > found["majority"]["accuracy"]


def test_predictions_are_transformers_own(classifier, tmp_path, capsys):
    new = reviews(40, seed=1)
    tables.write_table(tmp_path / "new.jsonl", new)
    ssljax("predict", "--run", classifier, tmp_path / "new.jsonl", tmp_path / "out.csv", "--batch-size", 16)
    assert "40 rows" in capsys.readouterr().out
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["review"] for row in rows] == new["review"]
    config, logits = answers(classifier / "huggingface", [new["review"]])
    assert config.id2label == {0: 'no, "never"', 1: "yes"}
    assert [row["prediction"] for row in rows] == [config.id2label[place] for place in logits.argmax(1)]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    for number, name in config.id2label.items():
        ours = [float(row[f"probability {name}"]) for row in rows]
        np.testing.assert_allclose(ours, powers[:, number] / powers.sum(1), atol=1e-5)
    right = np.mean([row["prediction"] == label for row, label in zip(rows, new["stars"], strict=True)])
    assert right > 0.9


def test_numbers_and_pairs(encoder, tmp_path):
    """A regression on two columns: large numbers are learned on their own scale, and the written head gives them."""
    rows = reviews(250)
    table = {"a": rows["review"], "b": ["the film!", "a film."] * 125, "price": rows["price"]}
    tables.write_table(tmp_path / "mine.tsv", table)
    common = ("--run", encoder, "--epochs", 16, "--seeds", 1, "--learning-rate", 0.01, "--batch-size", 16)
    ssljax(
        "finetune", *common, "--train", tmp_path / "mine.tsv", "--test", tmp_path / "mine.tsv", "--text", "a", "b",
        "--label", "price", "--regression", "--out", tmp_path / "price",
    )  # fmt: skip
    found = json.loads((tmp_path / "price" / "results.json").read_text())
    assert found["fine-tuned"]["pearson"] > 80
    ssljax("predict", "--run", tmp_path / "price", tmp_path / "mine.tsv", tmp_path / "out.tsv")
    ours = np.array(tables.read_table(str(tmp_path / "out.tsv")).columns["prediction"], float)
    assert np.corrcoef(ours, rows["price"])[0, 1] > 0.8
    assert 80 < ours.mean() < 170
    config, logits = answers(tmp_path / "price" / "huggingface", [table["a"], table["b"]])
    assert (config.problem_type, config.num_labels) == ("regression", 1)
    np.testing.assert_allclose(ours, logits[:, 0], rtol=1e-5)


def test_the_same_command_again_shows_its_results(classifier, encoder, capsys):
    folder = classifier.parent
    command = (
        "finetune", "--run", encoder, "--train", folder / "mine.csv", "--text", "review", "--label", "stars",
        "--out", classifier, *NUMBERS,
    )  # fmt: skip
    ssljax(*command)
    assert "already has these results" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        ssljax(*command, "--seed", 3)
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "colour"], "label=colour: .* has no such column, but review, stars, price"),
        (["--text", "words"], "text=words: .* has no such column"),
        (["--text", "review", "stars", "price"], "text=review stars price: give one column of text, or two"),
        (["--label", "review"], r"label=review: .* different labels in 300 rows; .*--regression"),
        (["--regression"], r"line 2: '.*' is not a number, which --regression needs"),
        (["--train", "none.csv"], r"none\.csv: cannot read the text"),
        (["--run", "nowhere"], "nowhere holds no trained encoder"),
        (["--length", "99"], "length=99: give 4 to 24 tokens"),
        (["--epochs", "0"], "epochs=0"),
        (["--learning-rate", "-1"], "learning_rate=-1"),
        (["--out", ""], "out='': give --train TABLE"),
    ],
)
def test_what_cannot_be_fine_tuned_is_one_sentence(options, said, classifier, encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["--run", encoder, "--train", classifier.parent / "mine.csv", "--text", "review", "--label", "stars"]
    with pytest.raises(SystemExit, match="2"):
        ssljax("finetune", *given, "--out", "new", *options)
    printed = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{said}.*\n", printed), printed
    assert not (tmp_path / "new").exists()


def test_an_encoder_predicts_nothing(encoder, classifier, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        ssljax("predict", "--run", encoder, classifier.parent / "mine.csv", tmp_path / "out.csv")
    assert "holds no classifier; give the --out of ssljax finetune" in capsys.readouterr().err


def table_of(labels):
    return tables.Table("t.csv", {"text": ["a"] * len(labels), "label": labels}, list(range(2, len(labels) + 2)))


def test_classes_are_in_the_order_of_their_numbers():
    task = own_task.own_task(table_of(["10", "9", "-1", "b", "9", "10"] * 3), ("text",), "label", False)
    assert [names[0] for names in task.labels] == ["-1", "9", "10", "b"]


def test_every_tenth_row_of_each_class_is_held_out():
    table = table_of(["a"] * 40 + ["b"] * 21 + ["c"] * 5)
    task = own_task.own_task(table, ("text",), "label", False)
    train, test = own_task.hold_out(own_task.examples(table, task), task, seed=0)
    assert np.bincount(test.labels, minlength=3).tolist() == [4, 2, 0]
    assert np.bincount(train.labels, minlength=3).tolist() == [36, 19, 5]


def test_a_label_that_training_has_not_is_named():
    task = own_task.own_task(table_of(["a", "b"] * 5), ("text",), "label", False)
    with pytest.raises(BadInputError, match=r"t\.csv, line 3: the label 'c' does not occur in training"):
        own_task.examples(table_of(["a", "c"]), task)
