"""experiments.glue and experiments.squad on a few made-up sentences and a BERT of one layer."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import glue, squad
from ssljax.models import bert
from ssljax.text import export as text_export
from ssljax.text import finetuned, squad_answers, text_tasks
from ssljax.text import squad as squad_windows
from ssljax.text.vocabulary import SPECIALS, Vocabulary
from ssljax.types import BadInputError
from tests.oracles import torchvision_import

WORDS = ["good", "bad", "film", "plot", "who", "the", "king", "queen", "of", "a", "."]
LOAD = text_export.load_encoder  # the real one
VOCABULARY = Vocabulary((*SPECIALS, *WORDS))
SHAPE = bert.BertShape(vocab_size=len(VOCABULARY), hidden=8, layers=1, heads=1, intermediate=8, positions=32)
TINY = {"run": "somewhere/bert_tiny", "seeds": 2, "epochs": 1, "batch_size": 8, "devices": 2}


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    rows = jnp.ones((1, 4), jnp.int32)
    params = bert.bert(SHAPE).init(jax.random.key(0), rows, rows, rows[0, :1])[0]
    parts = {"encoder": jax.device_get(params)}
    monkeypatch.setattr(text_export, "load_encoder", lambda run: (parts, SHAPE, VOCABULARY))


@pytest.fixture
def sentiment(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("dev", 12)):
        labels = rng.integers(0, 2, count)
        lines = [f"a film of {'good' if label else 'bad'} {rng.choice(WORDS[2:])}\t{label}" for label in labels]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))
    return str(tmp_path)


@pytest.fixture
def questions(tmp_path):
    articles = []
    for number in range(5):
        context = "the king of film . the queen of plot . a good king . a bad queen . " * (number + 1)
        answers = [{"text": "queen", "answer_start": 23}, {"text": "the queen", "answer_start": 19}]
        qas = [{"id": f"{number}-{i}", "question": "who of plot", "answers": answers} for i in range(3)]
        articles.append({"title": "t", "paragraphs": [{"context": context, "qas": qas}]})
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    return str(path)


@pytest.mark.slow
def test_glue(tmp_path, sentiment, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "results").mkdir(parents=True)
    config = glue.Config(workdir="out", data=sentiment, length=16, train_examples=30, record=True, **TINY)
    results = glue.run(config)
    assert list(results) == ["majority", "bag of words", "fine-tuned"]
    assert results["fine-tuned"].keys() == {"accuracy", "accuracy sd", "seeds"}
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["majority"]["accuracy"] == pytest.approx(results["majority"]["accuracy"], abs=0.01)
    (record,) = json.loads((tmp_path / "experiments" / "results" / "glue.json").read_text())
    runs = [one["accuracy"] for one in record["last_metrics"]["seeds"]]
    assert np.mean(runs) == pytest.approx(results["fine-tuned"]["accuracy"])
    # the record says what was changed, but not where things lie
    assert record["options"]["run"] == "bert_tiny"
    assert sentiment not in json.dumps(record)
    printed = capsys.readouterr().out
    assert "bag of words" in printed
    monkeypatch.setattr(text_export, "load_encoder", LOAD)
    kept = finetuned.load("out")
    assert (kept.labels, kept.text, kept.length) == (("0", "1"), ("sentence",), 16)
    dev = text_tasks.read_task(text_tasks.find_task("SST-2"), sentiment, "dev")
    right = finetuned.predict(kept, dev.first, None).argmax(1) == dev.labels
    assert 100 * right.mean() == pytest.approx(runs[0])
    assert glue.run(config) == stored
    assert "already" in capsys.readouterr().out
    with pytest.raises(BadInputError, match="holds another run"):
        glue.run(dataclasses.replace(config, seeds=3))


@pytest.mark.slow
def test_squad(tmp_path, questions):
    config = squad.Config(workdir=str(tmp_path / "out"), dev=questions, held_out=2, length=24, max_query=4, **TINY)
    config = dataclasses.replace(config, stride=8, max_answer=4)
    results = squad.run(config)
    assert results["fine-tuned"].keys() == {"f1", "f1 sd", "exact_match", "exact_match sd", "seeds"}
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    asked = squad_windows.read_squad(questions)[9:]
    assert predictions.keys() == {question.id for question in asked}
    assert all(predictions[question.id] in question.context for question in asked)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert squad_answers.evaluate(predictions, asked) == record["last_metrics"]["seeds"][0]
    assert record["options"]["dev"] == "dev.json"
    assert squad.run(config) == json.loads((tmp_path / "out" / "results.json").read_text())

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torchvision_import.load_torchvision()
    kept, shape, _ = LOAD(str(tmp_path / "out"))
    tokens = np.arange(24, dtype=np.int32)[None] % len(VOCABULARY)
    encoded, _ = bert.bert(shape).apply(kept["encoder"], {}, tokens, np.zeros_like(tokens), np.array([24]), train=False)
    ours, _ = bert.span_head().apply(kept["span"], {}, encoded["tokens"], train=False)
    theirs = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "out" / "huggingface").eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(tokens.astype(np.int64)))
    for side, logits in enumerate((found.start_logits, found.end_logits)):
        np.testing.assert_allclose(ours[..., side], logits.numpy(), atol=1e-5)


def test_a_train_file_leaves_dev_whole(questions):
    train, dev = squad._questions(squad.Config(dev=questions, train=questions))
    assert train == dev
    assert len(dev) == 15


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (glue, {"task": "SST-9"}, "task=SST-9"),
        (glue, {"seeds": 0}, "seeds=0"),
        (glue, {"data": ""}, "give --run DIRECTORY"),
        (glue, {"run": ""}, "give --run DIRECTORY"),
        (glue, {"task": "CoLA", "dev": "test"}, r"no test\.tsv of CoLA but dev; evaluate on it with --dev dev"),
        (glue, {"train_examples": 41}, "there are 40"),
        (glue, {"length": 64}, "position"),
        (squad, {"dev": ""}, "give --run DIRECTORY"),
        (squad, {"dev": "none.json"}, "No such file"),
        (squad, {"held_out": 5}, "hold out 1 to 4"),
        (squad, {"held_out": 2, "train_examples": 10}, "train_examples=10: there are 9"),
        (squad, {"length": 60, "held_out": 1}, "must exceed"),
        (squad, {"length": 100, "held_out": 1}, "position"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    module, options, words, tmp_path, sentiment, questions, monkeypatch, capsys
):
    given = {"run": "somewhere", "workdir": str(tmp_path / "out")}
    given |= {"data": sentiment} if module is glue else {"dev": questions}
    pairs = [f"--{name.replace('_', '-')}={value}" for name, value in (given | options).items()]
    monkeypatch.setattr("sys.argv", ["program", *pairs])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert re.search(words, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", [glue, squad])
def test_another_runs_directory_is_left_alone(module, tmp_path):
    (tmp_path / "mine.txt").write_text("words")
    with pytest.raises(BadInputError, match="not empty"):
        module.run(module.Config(workdir=str(tmp_path), run="r", **({"data": "d"} if module is glue else {"dev": "d"})))
