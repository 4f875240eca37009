"""MoCo v3's official step written out in PyTorch: a small ResNet with BatchNorm'd heads, EMA, LARS, both schedules."""

import math
import zlib

import numpy as np

from tests.oracles import oracle

STEPS, TOTAL, WARMUP, BATCH, SIDE, DIM, HIDDEN, WIDTH = 12, 16, 3, 16, 8, 8, 16, 4
MOMENTUM, TEMPERATURE, RATE, DECAY, TRUST = 0.9, 0.3, 0.3, 1e-2, 1e-2

CONVOLUTIONS = {"conv1": 3, "layer1_0/conv1": WIDTH, "layer1_0/conv2": WIDTH}
DENSE = {
    "projector/dense1": (WIDTH, HIDDEN),
    "projector/dense2": (HIDDEN, DIM),
    "predictor/dense1": (DIM, HIDDEN),
    "predictor/dense2": (HIDDEN, DIM),
}
AFFINE = {
    "backbone/bn1": WIDTH,
    "backbone/layer1_0/bn1": WIDTH,
    "backbone/layer1_0/bn2": WIDTH,
    "projector/bn1": HIDDEN,
    "predictor/bn1": HIDDEN,
}
NORMS = {**AFFINE, "projector/bn2": DIM}
SHAPES = {
    **{f"backbone/{name}/kernel": (3, 3, channels, WIDTH) for name, channels in CONVOLUTIONS.items()},
    **{f"{name}/kernel": shape for name, shape in DENSE.items()},
    **{f"{name}/{part}": (width,) for name, width in AFFINE.items() for part in ("scale", "bias")},
}


def _random(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def inputs() -> dict:
    """The run's start and pictures: weights {path: array}, views [steps, 2, B, h, w, 3]."""
    weights = {}
    for name, shape in SHAPES.items():
        weights[name] = _random(name, shape) / np.float32(math.sqrt(math.prod(shape[:-1])))
        if name.endswith("scale"):
            weights[name] = 1 + 0.1 * weights[name]
    return {"weights": weights, "views": _random("views", (STEPS, 2, BATCH, SIDE, SIDE, 3))}


def momentum_at(step: int) -> float:
    """m of the official schedule."""
    return 1 - 0.5 * (1 + math.cos(math.pi * step / TOTAL)) * (1 - MOMENTUM)


def rate_at(step: int) -> float:
    """The learning rate of the official schedule."""
    if step < WARMUP:
        return RATE * step / WARMUP
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP)))


def _norm(x, name, weights, running):
    from torch.nn import functional as F

    mean, var = running[name]
    scale, bias = weights.get(f"{name}/scale"), weights.get(f"{name}/bias")
    return F.batch_norm(x, mean, var, scale, bias, training=True, momentum=0.1, eps=1e-5)


def _encode(weights, running, images):
    """Images [B, h, w, 3] -> the projector's outputs [B, D]; `running` {norm: (mean, var)} is moved in place."""
    from torch.nn import functional as F

    def layer(x, block, i):
        kernel = weights[f"backbone/{block}conv{i}/kernel"].permute(3, 2, 0, 1)
        return _norm(F.conv2d(x, kernel, padding=1), f"backbone/{block}bn{i}", weights, running)

    x = F.relu(layer(images.permute(0, 3, 1, 2), "", 1))
    x = F.relu(x + layer(F.relu(layer(x, "layer1_0/", 1)), "layer1_0/", 2))
    x = F.relu(_norm(x.mean((2, 3)) @ weights["projector/dense1/kernel"], "projector/bn1", weights, running))
    return _norm(x @ weights["projector/dense2/kernel"], "projector/bn2", weights, running)


def _predict(weights, running, x):
    from torch.nn import functional as F

    x = F.relu(_norm(x @ weights["predictor/dense1/kernel"], "predictor/bn1", weights, running))
    return x @ weights["predictor/dense2/kernel"]


def _contrast(query, key):
    import torch
    from torch.nn import functional as F

    logits = F.normalize(query) @ F.normalize(key).T / TEMPERATURE
    return F.cross_entropy(logits, torch.arange(BATCH)) * 2 * TEMPERATURE


def _lars(value, gradient, velocity, rate):
    if value.ndim > 1:
        gradient = gradient + DECAY * value
        gradient = gradient * TRUST * value.norm() / gradient.norm()
    velocity.mul_(0.9).add_(gradient)
    value.sub_(rate * velocity)


def _move(key, query, momentum):
    for name, value in key.items():
        value.mul_(momentum).add_((1 - momentum) * query[name])


@oracle("torch")
def moco_v3_steps() -> dict[str, np.ndarray]:
    """12 of 16 steps; the momentum encoder moves before it encodes the keys."""
    import torch

    start = inputs()
    query = {name: torch.tensor(value, requires_grad=True) for name, value in start["weights"].items()}
    key = {name: torch.tensor(value) for name, value in start["weights"].items() if "predictor" not in name}
    velocity = {name: torch.zeros_like(value) for name, value in query.items()}
    query_running, key_running = (
        {name: (torch.zeros(width), torch.ones(width)) for name, width in NORMS.items()} for _ in range(2)
    )
    losses = []
    for step, (view_1, view_2) in enumerate(torch.tensor(start["views"])):
        q_1, q_2 = (_predict(query, query_running, _encode(query, query_running, view)) for view in (view_1, view_2))
        with torch.no_grad():
            _move(key, query, momentum_at(step))
            k_1, k_2 = (_encode(key, key_running, view) for view in (view_1, view_2))
        loss = _contrast(q_1, k_2) + _contrast(q_2, k_1)
        gradients = torch.autograd.grad(loss, list(query.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(query.items(), gradients, strict=True):
                _lars(value, gradient, velocity[name], rate_at(step))
        losses.append(loss.item())
    with torch.no_grad():  # ours has made the next step's move already
        _move(key, query, momentum_at(STEPS))
    return {
        "losses": np.array(losses, np.float32),
        **{f"query/{name}": value.detach().numpy() for name, value in query.items()},
        **{f"key/{name}": value.numpy() for name, value in key.items()},
        **{f"query_stats/{name}": torch.stack(value).numpy() for name, value in query_running.items()},
        **{
            f"key_stats/{name}": torch.stack(value).numpy() for name, value in key_running.items() if "pred" not in name
        },
    }
