"""A shrunk text run from the corpus to the commands that use it."""

import bz2
import dataclasses
import json
import re

import numpy as np
import pytest

from experiments import bert_demo, bert_large_lamb
from ssljax.cli import main as commands
from ssljax.run import experiment
from ssljax.text import export as text_export
from ssljax.text import task as text
from ssljax.text.embedding import embed_lines
from ssljax.text.vocabulary import encode, tokenizer
from ssljax.types import BadInputError

pytestmark = pytest.mark.slow

SMALL = {
    "data": text.PYTHON_TOPICS,
    "vocab_size": 400,
    "steps": (3, 2),
    "lengths": (32, 48),
    "batch_sizes": (8, 4),
    "max_predictions": (5, 7),
    "hidden": 16,
    "layers": 1,
    "heads": 2,
    "eval_every": 2,
    "save_every": 2,
    "log_every": 1,
    "compiler_check": False,
    "devices": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a finished run of two phases, and its results."""
    workdir = tmp_path_factory.mktemp("runs") / "demo"
    config = bert_demo.Config(workdir=str(workdir), **SMALL)
    return workdir, experiment.run(config, bert_demo.build(config), bert_demo.__doc__ or "")


def ssljax(*arguments):
    commands.main([str(argument) for argument in arguments])


def test_the_table_has_the_counted_baselines(run):
    _, results = run
    assert list(results) == ["unigram", "bigram", "majority", "untrained", "bert"]
    assert results["bigram"]["mlm_accuracy"] > results["unigram"]["mlm_accuracy"] > 2
    assert results["bert"].keys() == {"mlm_accuracy", "perplexity", "nsp_accuracy"}
    assert 50 <= results["majority"]["nsp_accuracy"] < 90


def test_the_log_has_both_phases_and_the_filled_masks(run):
    rows = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    lengths = [row["tokens_per_example"] / (1 - row["padding"] / 100) for row in rows]
    assert np.round(lengths) == pytest.approx([32, 32, 32, 48, 48])
    filled = [row for row in rows if "filled" in row]
    assert [row["step"] for row in filled] == [2, 4, 5]
    assert all(len(row["filled"]) == len(bert_demo.SENTENCES) for row in filled)


def test_the_page_shows_words_and_attention(run):
    page = (run[0] / "report.html").read_text()
    for heading in ("Masked words at the end", "Masked words through training", "attends to", "step 4"):
        assert heading in page
    assert "of masked words" in page


def test_a_run_that_was_to_stop_early_goes_on_when_allowed(run, tmp_path):
    """Stopped within the second phase and taken up: the same encoder, bit for bit; what was there before stays."""
    config = bert_demo.Config(workdir=str(tmp_path / "run"), **SMALL)
    first = dataclasses.replace(config, stop_after=4)
    experiment.run(first, bert_demo.build(first))
    with pytest.raises(BadInputError, match=r"stop_after 4, not None.*--allow stop_after"):
        experiment.run(config, bert_demo.build(config))
    experiment.run(dataclasses.replace(config, allow=("stop-after",)), bert_demo.build(config))
    mine, whole = ((place / "huggingface/model.safetensors").read_bytes() for place in (tmp_path / "run", run[0]))
    assert mine == whole
    assert json.loads((tmp_path / "run" / "config.json.before-1").read_text())["stop_after"] == 4
    assert (tmp_path / "run" / "results.json.before-1").exists()


def test_fill_mask(run, capsys):
    ssljax("fill-mask", "--run", run[0], "A [MASK] is a [MASK].", "--top", 3)
    printed = capsys.readouterr().out
    assert "[MASK] 2" in printed
    assert len(re.findall(r"^ +\d+\.\d\d %  \S+$", printed, re.M)) == 6


def test_embed_gives_the_mean_of_the_last_layer(run, tmp_path, capsys):
    lines = ["a string", "the value of a function is an object", "x" * 300]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    ssljax("embed", "--run", run[0], tmp_path / "lines.txt", tmp_path / "out.npy")
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.shape == (3, 16)
    encoder = text_export.load_encoder(str(run[0]))
    for line, vector in zip(lines, vectors, strict=True):
        np.testing.assert_allclose(vector, embed_lines(*encoder, [line]).vectors[0], atol=1e-5)
    assert "3 vectors of 16" in capsys.readouterr().out


def test_a_vector_by_its_definition(run, tmp_path, capsys):
    """The encoder on one line at a time: [CLS], the line, [SEP], nothing beyond `max_length`."""
    params, shape, vocabulary = text_export.load_encoder(str(run[0]))
    lines = ["an object of the class", "", "a " * 60, "\u2028 strings \x0c and \x1e lines"]
    ids = encode(tokenizer(vocabulary), lines)
    encoder = text.build(shape).encoder

    def last_layer(line, most):
        tokens = np.array([[vocabulary.cls, *line[: most - 2], vocabulary.sep]], np.int32)
        outputs, _ = encoder.apply(
            params["encoder"], {}, tokens, np.zeros_like(tokens), np.array([tokens.shape[1]]), train=False
        )
        return np.asarray(outputs["tokens"][0])

    (tmp_path / "lines.txt.bz2").write_bytes(bz2.compress("\r\n".join(lines).encode()))
    ssljax("embed", "--run", run[0], tmp_path / "lines.txt.bz2", tmp_path / "mean.npy", "--max-length", 20)
    assert "1 of 4 lines are longer than 20 tokens and were cut." in capsys.readouterr().out
    wanted = np.stack([last_layer(line, 20).mean(0) for line in ids])
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), wanted, atol=1e-5)

    more = ("--pooling", "cls", "--normalise")
    ssljax("embed", "--run", run[0], tmp_path / "lines.txt.bz2", tmp_path / "cls.npy", *more)
    wanted = np.stack([last_layer(line, shape.positions)[0] for line in ids])
    np.testing.assert_allclose(
        np.load(tmp_path / "cls.npy"), wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5
    )


def test_a_text_of_unknown_words_is_said(run, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("a string\n\u4e2d\u6587\n")
    ssljax("embed", "--run", run[0], tmp_path / "lines.txt", tmp_path / "out.npy")
    assert re.search(r"\d\d\.\d % of the tokens are not in the vocabulary", capsys.readouterr().out)


@pytest.mark.parametrize("length", [-1, 0, 2, 49])
def test_a_length_that_the_model_does_not_have_is_refused(run, length, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("a string")
    with pytest.raises(SystemExit, match="2"):
        ssljax("embed", "--run", run[0], tmp_path / "lines.txt", tmp_path / "out.npy", "--max-length", length)
    assert re.search(f"max_length={length}: give (3 to 48 tokens|a whole number from 3)", capsys.readouterr().err)
    assert not (tmp_path / "out.npy").exists()


def test_export_copies_the_directory(run, tmp_path):
    ssljax("export", "--run", run[0], "--to", "huggingface", tmp_path / "copy")
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (run[0] / "huggingface" / name).read_bytes()
    params, shape, vocabulary = text_export.load_encoder(str(tmp_path / "copy"))
    assert set(params) == {"encoder", "mlm", "nsp"}
    assert shape.hidden == 16
    assert len(vocabulary) <= 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fill-mask", "--run", "nowhere", "a [MASK]"], "nowhere holds no trained encoder"),
        (["fill-mask", "a [MASK]"], "holds no trained encoder"),
        (["embed", "--run", "nowhere", "no.txt", "out.npy"], "no.txt"),
        (["export", "--run", "nowhere", "there"], "nowhere holds no huggingface"),
        (["export", "--run", "nowhere", "--to", "timm", "there"], "nowhere holds no backbone.safetensors"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        ssljax(*arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert words in printed
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": ""}, "bert_prepare"),
        ({"data": "nowhere"}, "nowhere is not a prepared corpus"),
        ({"lengths": (32,)}, r"lengths=\(32,\)"),
        ({"batch_sizes": (8, 3)}, "batch_size=3"),
        ({"heads": 3}, "heads=3"),
        ({"learning_rate": 0.0, "batch_sizes": (100_000, 4)}, "100000"),
    ],
)
def test_misuse_is_refused_before_a_compile(options, words, tmp_path):
    config = bert_demo.Config(workdir=str(tmp_path / "run"), **(SMALL | options))
    with pytest.raises(BadInputError, match=words):
        experiment.run(config, bert_demo.build(config))
    assert not (tmp_path / "run").exists()


def test_lamb_wants_rates_for_each_phase():
    config = bert_large_lamb.Config(learning_rates=(1e-3,))
    with pytest.raises(BadInputError, match="learning_rates"):
        bert_large_lamb.build(config)
