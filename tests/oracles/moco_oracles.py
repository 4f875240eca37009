"""MoCo's official step written out in PyTorch: a small ResNet with per-group BatchNorm, queue, EMA and SGD by hand."""

import zlib

import numpy as np

from tests.oracles import oracle

STEPS, BATCH, SIDE, GROUPS, QUEUE, DIM, WIDTH = 20, 16, 8, 8, 64, 8, 4
MOMENTUM, TEMPERATURE, RATE, DECAY = 0.9, 0.2, 0.05, 1e-3

SHAPES = {
    "backbone/conv1/kernel": (3, 3, 3, WIDTH),
    "backbone/bn1/scale": (WIDTH,),
    "backbone/bn1/bias": (WIDTH,),
    "backbone/layer1_0/conv1/kernel": (3, 3, WIDTH, WIDTH),
    "backbone/layer1_0/bn1/scale": (WIDTH,),
    "backbone/layer1_0/bn1/bias": (WIDTH,),
    "backbone/layer1_0/conv2/kernel": (3, 3, WIDTH, WIDTH),
    "backbone/layer1_0/bn2/scale": (WIDTH,),
    "backbone/layer1_0/bn2/bias": (WIDTH,),
    "projector/dense1/kernel": (WIDTH, 2 * DIM),
    "projector/dense1/bias": (2 * DIM,),
    "projector/dense2/kernel": (2 * DIM, DIM),
    "projector/dense2/bias": (DIM,),
}
NORMS = ("backbone/bn1", "backbone/layer1_0/bn1", "backbone/layer1_0/bn2")


def _random(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def inputs() -> dict:
    """The run's start, pictures and permutations.

    Returns:
        weights {path: array}; queue [K, D] normalised; views [steps, 2, B, h, w, 3]; orders int[steps, 2, B].
    """
    weights = {}
    for name, shape in SHAPES.items():
        fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1
        weights[name] = _random(name, shape) / np.sqrt(fan_in).astype(np.float32)
        if name.endswith("scale"):
            weights[name] = 1 + 0.1 * weights[name]
    queue = _random("queue", (QUEUE, DIM))
    rng = np.random.default_rng(0)
    orders = np.stack([[rng.permutation(BATCH) for _ in range(2)] for _ in range(STEPS)])
    return {
        "weights": weights,
        "queue": queue / np.linalg.norm(queue, axis=1, keepdims=True),
        "views": _random("views", (STEPS, 2, BATCH, SIDE, SIDE, 3)),
        "orders": orders.astype(np.int32),
    }


def _encode(weights, running, images):
    """Images [B, h, w, 3] -> unit vectors [B, D]; `running` {norm: [mean, var]} is moved in place."""
    import torch
    from torch.nn import functional as F

    def conv(x, name):
        return F.conv2d(x, weights[f"{name}/kernel"].permute(3, 2, 0, 1), padding=1)

    def norm(x, name):
        mean, var, out = [], [], []
        for part in x.chunk(GROUPS):
            out.append(F.batch_norm(part, None, None, *_affine(weights, name), training=True, eps=1e-5))
            mean.append(part.detach().mean((0, 2, 3)))
            var.append(part.detach().var((0, 2, 3), unbiased=True))
        now = torch.stack([torch.stack(mean).mean(0), torch.stack(var).mean(0)])
        running[name] = 0.9 * running[name] + 0.1 * now
        return torch.cat(out)

    x = images.permute(0, 3, 1, 2)
    x = F.relu(norm(conv(x, "backbone/conv1"), "backbone/bn1"))
    y = F.relu(norm(conv(x, "backbone/layer1_0/conv1"), "backbone/layer1_0/bn1"))
    y = norm(conv(y, "backbone/layer1_0/conv2"), "backbone/layer1_0/bn2")
    x = F.relu(x + y).mean((2, 3))
    x = F.relu(x @ weights["projector/dense1/kernel"] + weights["projector/dense1/bias"])
    return F.normalize(x @ weights["projector/dense2/kernel"] + weights["projector/dense2/bias"], dim=1)


def _affine(weights, name):
    return weights[f"{name}/scale"], weights[f"{name}/bias"]


def _train(symmetric: bool) -> dict[str, np.ndarray]:
    import torch

    start = inputs()
    query = {name: torch.tensor(value, requires_grad=True) for name, value in start["weights"].items()}
    key = {name: torch.tensor(value) for name, value in start["weights"].items()}
    velocity = {name: torch.zeros_like(value) for name, value in key.items()}
    fresh = torch.stack([torch.zeros(WIDTH), torch.ones(WIDTH)])
    query_running, key_running = ({name: fresh.clone() for name in NORMS} for _ in range(2))
    queue, pointer, losses = torch.tensor(start["queue"]), 0, []

    def contrast(first, second, order):
        q = _encode(query, query_running, first)
        with torch.no_grad():
            k = _encode(key, key_running, second[order])[torch.argsort(order)]
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / TEMPERATURE
        return torch.nn.functional.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long)), k

    for views, orders in zip(torch.tensor(start["views"]), torch.tensor(start["orders"]).long(), strict=True):
        with torch.no_grad():  # the official code moves the key encoder before it encodes the keys
            for name, value in key.items():
                value.mul_(MOMENTUM).add_((1 - MOMENTUM) * query[name])
        loss, keys = contrast(views[0], views[1], orders[0])
        if symmetric:
            other, other_keys = contrast(views[1], views[0], orders[1])
            loss, keys = loss + other, torch.cat([other_keys, keys])
        gradients = torch.autograd.grad(loss, list(query.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(query.items(), gradients, strict=True):
                velocity[name].mul_(0.9).add_(gradient + DECAY * value)
                value.sub_(RATE * velocity[name])
            queue[pointer : pointer + len(keys)] = keys
            pointer = (pointer + len(keys)) % QUEUE
        losses.append(loss.item())
    with torch.no_grad():  # ours has made the next step's move already
        for name, value in key.items():
            value.mul_(MOMENTUM).add_((1 - MOMENTUM) * query[name])
    return {
        "losses": np.array(losses, np.float32),
        "queue": queue.numpy(),
        "pointer": np.array(pointer),
        **{f"query/{name}": value.detach().numpy() for name, value in query.items()},
        **{f"key/{name}": value.numpy() for name, value in key.items()},
        **{f"query_stats/{name}": value.numpy() for name, value in query_running.items()},
        **{f"key_stats/{name}": value.numpy() for name, value in key_running.items()},
    }


@oracle("torch")
def moco_asymmetric() -> dict[str, np.ndarray]:
    """20 steps, one direction."""
    return _train(symmetric=False)


@oracle("torch")
def moco_symmetric() -> dict[str, np.ndarray]:
    """20 steps, both directions."""
    return _train(symmetric=True)
