"""BERT's parameters under transformers' names, and back."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.interop.safetensors_file import check_floats
from ssljax.models.bert import bert, classifier, mlm_head, nsp_head, span_head, word_table
from ssljax.models.bert_layers import BertShape
from ssljax.types import BadInputError, PyTree

MODULES = {
    "encoder.embeddings.word": "bert.embeddings.word_embeddings",
    "encoder.embeddings.position": "bert.embeddings.position_embeddings",
    "encoder.embeddings.segment": "bert.embeddings.token_type_embeddings",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
    "encoder.pooler": "bert.pooler.dense",
    "mlm.dense": "cls.predictions.transform.dense",
    "mlm.norm": "cls.predictions.transform.LayerNorm",
    "mlm": "cls.predictions",
    "nsp": "cls.seq_relationship",
    "classifier.dense": "classifier",
    "span": "qa_outputs",
}
LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
HEADS = {  # and what their arrays begin with
    "mlm": "cls.predictions.",
    "nsp": "cls.seq_relationship.",
    "classifier": "classifier.bias",
    "span": "qa_outputs.bias",
}
DECODER = "cls.predictions.decoder."


def to_huggingface(params: PyTree, shape: BertShape) -> dict[str, np.ndarray]:
    """Arrays by transformers' names; kernels are transposed, the decoder tied to the words is left out.

    Raises:
        BadInputError: the parameters do not fit `shape`.
    """
    classes = params["classifier"]["dense"]["bias"].shape[0] if "classifier" in params else 1
    like = _like(shape, tuple(name for name in HEADS if name in params), classes)
    found, wanted = _named(params), _named(like)
    for name, leaf in wanted.items():
        if name not in found:
            raise BadInputError(f"{name} is missing: the shape needs it with {_outside(name, leaf.shape)}.")
        if found[name].shape != leaf.shape:
            raise BadInputError(
                f"{name} has shape {_outside(name, found[name].shape)}, the shape needs {_outside(name, leaf.shape)}."
            )
    if extra := sorted(found.keys() - wanted.keys()):
        raise BadInputError(f"{extra[0]} is unexpected: the shape has {shape.layers} layers.")
    turned = ((name, np.asarray(leaf, np.float32)) for name, leaf in found.items())
    return {name: np.ascontiguousarray(leaf.T if _is_kernel(name) else leaf) for name, leaf in turned}


def from_huggingface(state: Mapping[str, Any], shape: BertShape) -> PyTree:
    """The inverse of `to_huggingface`; the arguments' and the result's meaning is `load_pretrained`'s.

    Args:
        state: arrays by transformers' names, with or without the prefix `bert.`; LayerNorms may have the names of
            TensorFlow, gamma and beta.
        shape: shape of the encoder.

    Returns:
        The parameters, float32.

    Raises:
        BadInputError: an array is missing, unexpected or of another shape; the first one is named.
    """
    given = {_modern(name): name for name in state}
    if shape.layers > len(given):
        raise BadInputError(
            f"config.json has {shape.layers} layers, and the checkpoint has {len(given)} arrays in all; "
            "give the config.json of this checkpoint."
        )
    heads = tuple(head for head, names in HEADS.items() if any(name.startswith(names) for name in given))
    classes = np.size(state[given["classifier.bias"]]) if "classifier.bias" in given else 1
    like = _like(shape, heads, classes)
    pooler = None if any(name.startswith("bert.pooler.") for name in given) else like["encoder"].pop("pooler")
    wanted = _named(like)
    leaves = [_take(state, given, name, leaf) for name, leaf in wanted.items()]
    for name in sorted(given.keys() - wanted.keys()):
        if name.startswith(("bert.", "cls.")) and not name.startswith(DECODER) and not name.endswith("position_ids"):
            size = np.shape(state[given[name]])
            raise BadInputError(f"{given[name]} with shape {size} is unexpected: config.json describes none.")
    params = jax.tree.unflatten(jax.tree.structure(like), leaves)
    _check_tied(state, given, params)
    if pooler is not None:
        warnings.warn("the checkpoint has no pooler: a new one is drawn, as transformers does", stacklevel=2)
        params["encoder"]["pooler"] = _init(shape, jax.random.key(0))["pooler"]
    return params


def _take(state: Mapping[str, Any], given: dict[str, str], name: str, leaf: Any) -> jax.Array:
    """The array `name` of a checkpoint, in the shape and dtype of the leaf."""
    wanted = _outside(name, leaf.shape)
    if name not in given:
        raise BadInputError(f"{name} is missing: config.json needs it with shape {wanted}.")
    value = np.asarray(state[given[name]])
    if value.shape != wanted:
        raise BadInputError(f"{given[name]} has shape {value.shape}, config.json needs {wanted}.")
    check_floats(given[name], value)
    return jnp.asarray(value.T if _is_kernel(name) else value, jnp.float32)


def _check_tied(state: Mapping[str, Any], given: dict[str, str], params: PyTree) -> None:
    """Older checkpoints repeat the words' table and the bias under the decoder's names."""
    if "mlm" not in params:
        return
    twins = {"weight": word_table(params["encoder"]), "bias": params["mlm"]["bias"]}
    for leaf, twin in twins.items():
        name = given.get(DECODER + leaf)
        if name is not None and not np.array_equal(np.asarray(state[name], np.float32), twin):
            raise BadInputError(
                f"{name} differs from the word embeddings and their bias: give a checkpoint with a tied head."
            )


def _modern(name: str) -> str:
    """A checkpoint's name as `BertForPreTraining` has it today."""
    name = name.removesuffix(".gamma") + ".weight" if name.endswith("LayerNorm.gamma") else name
    name = name.removesuffix(".beta") + ".bias" if name.endswith("LayerNorm.beta") else name
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _named(tree: PyTree) -> dict[str, Any]:
    """Leaves by transformers' names, in the order of `jax.tree.leaves`."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {_name([key.key for key in path]): leaf for path, leaf in paths}


def _name(path: list[str]) -> str:
    """`encoder, layers, 0, output, kernel` -> `bert.encoder.layer.0.output.dense.weight`."""
    module = ".".join(path[:-1])
    layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", module)
    outside = f"bert.encoder.layer.{layer[1]}.{MODULES[layer[2]]}" if layer else MODULES[module]
    return f"{outside}.{LEAVES[path[-1]]}"


def _is_kernel(name: str) -> bool:
    return name.endswith(".weight") and not name.endswith(("embeddings.weight", "LayerNorm.weight"))


def _outside(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[::-1]) if _is_kernel(name) else tuple(shape)


def _init(shape: BertShape, key: jax.Array) -> PyTree:
    ids = jnp.zeros((1, 1), jnp.int32)
    return bert(shape).init(key, ids, ids, ids[0])[0]


def _like(shape: BertShape, heads: tuple[str, ...], classes: int) -> PyTree:
    """The parameters' structure and shapes."""

    def init(key):
        params = {"encoder": _init(shape, key)}
        if "mlm" in heads:
            hidden = jnp.zeros((1, 1, shape.hidden))
            params["mlm"] = mlm_head(shape).init(key, hidden, word_table(params["encoder"]))[0]
        if "nsp" in heads:
            params["nsp"] = nsp_head(shape).init(key, jnp.zeros((1, shape.hidden)))[0]
        if "classifier" in heads:
            params["classifier"] = classifier(classes).init(key, jnp.zeros((1, shape.hidden)))[0]
        if "span" in heads:
            params["span"] = span_head().init(key, jnp.zeros((1, 1, shape.hidden)))[0]
        return params

    return jax.eval_shape(init, jax.random.key(0))
