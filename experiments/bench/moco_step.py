"""MoCo's training step: ssljax against PyTorch."""

import copy
from typing import Any

from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import autocast, compiled, jax_steps, torch_steps

QUEUE, MOMENTUM, TEMPERATURE, RATE, DECAY = 4096, 0.99, 0.1, 0.06, 5e-4
BLOCKS = {4: (1,), 18: (2, 2, 2, 2)}  # of a ResNet with the CIFAR stem; any other depth is a ResNet-50


def cifar(gpu: bool) -> list[Side]:
    """ResNet-18 with the CIFAR stem at 32 x 32."""
    return _sides({"depth": 18, "size": 32, "batch": 512 if gpu else 64, "steps": 20 if gpu else 3, "gpu": gpu})


def imagenet(gpu: bool) -> list[Side]:
    """ResNet-50 at 224 x 224; for a GPU."""
    return _sides({"depth": 50, "size": 224, "batch": 256, "steps": 5, "gpu": gpu})


def _sides(options: dict[str, Any]) -> list[Side]:
    return [
        Side("ssljax", ours, options),
        Side("PyTorch eager", peer, options),
        Side("torch.compile", peer, {**options, "inductor": True}),
    ]


def images(batch: int, size: int) -> tuple[Any, Any]:
    """Two float views [B, size, size, 3], normalised as views are."""
    import numpy as np

    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((batch, size, size, 3), np.float32) for _ in range(2))  # type: ignore[return-value]


def our_method(depth: int, gpu: bool) -> tuple[Any, Any]:
    """The method and its optimiser."""
    import jax.numpy as jnp

    from ssljax import optim
    from ssljax.methods.moco import moco
    from ssljax.models import heads, resnet

    dtype = jnp.bfloat16 if gpu else jnp.float32
    if depth in BLOCKS:
        backbone = resnet.resnet(BLOCKS[depth], stem="cifar", dtype=dtype)
        projector = heads.mlp((64 << len(BLOCKS[depth]) - 1, 128), dtype=dtype)
    else:
        backbone, projector = resnet.resnet50(dtype=dtype), heads.mlp((2048, 128), dtype=dtype)
    method = moco(backbone, projector, queue_size=QUEUE, momentum=MOMENTUM, temperature=TEMPERATURE)
    return method, optim.sgd(RATE, 0.9, DECAY)


def ours(depth: int, size: int, batch: int, steps: int, gpu: bool) -> Ready:
    """The train step of ssljax."""
    import jax.numpy as jnp

    method, optimizer = our_method(depth, gpu)
    first, second = map(jnp.asarray, images(batch, size))
    views: dict[str, Any] = {"view_1": first, "view_2": second}
    return jax_steps(method, lambda key, **batch: batch, optimizer, views, steps=steps, work=batch)


def peer(depth: int, size: int, batch: int, steps: int, gpu: bool, inductor: bool = False) -> Ready:
    """The same step in PyTorch, images channels-last."""
    torch = need("torch")
    step = torch_step(depth, gpu, inductor)
    place = "cuda" if gpu else "cpu"
    views = [
        torch.from_numpy(view).permute(0, 3, 1, 2).to(place, memory_format=torch.channels_last)
        for view in images(batch, size)
    ]
    return torch_steps(lambda: step(*views), steps=steps, work=batch, gpu=gpu)


def torch_step(depth: int, gpu: bool, inductor: bool = False) -> Any:
    """`(query view, key view) -> loss`, one update of MoCo in PyTorch; views [B, 3, h, w], channels-last.

    Reference: algorithm 1 of arXiv 1911.05722; fused and grouped updates where torch has them.
    """
    torch = need("torch")
    normalize, place = torch.nn.functional.normalize, "cuda" if gpu else "cpu"
    net = torch_resnet(depth)
    width, net.fc = net.fc.in_features, torch.nn.Identity()
    if depth in BLOCKS:
        net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    projector = torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 128)
    query = torch.nn.Sequential(net, *projector).to(place, memory_format=torch.channels_last)
    key = copy.deepcopy(query).requires_grad_(False)
    of_query, of_key = list(query.parameters()), list(key.parameters())
    queue, filled = normalize(torch.randn(128, QUEUE, device=place), dim=0), 0
    optimizer = torch.optim.SGD(of_query, RATE, 0.9, weight_decay=DECAY, fused=gpu)
    run_query, run_key = (compiled(net) if inductor else net for net in (query, key))

    def encode_keys(second):
        order = torch.randperm(len(second), device=place)
        shuffled = second[order].contiguous(memory_format=torch.channels_last)
        return normalize(run_key(shuffled)[torch.argsort(order)].float())

    def step(first, second):
        nonlocal filled
        with autocast(gpu):
            queries = normalize(run_query(first).float())
            with torch.no_grad():
                torch._foreach_lerp_(of_key, of_query, 1 - MOMENTUM)
                keys = encode_keys(second)
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue], dim=1) / TEMPERATURE
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(first), dtype=torch.long, device=place))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue[:, filled : filled + len(keys)] = keys.T
        filled = (filled + len(keys)) % QUEUE
        return loss

    return step


def torch_resnet(depth: int) -> Any:
    """Torchvision's ResNet of `depth` layers; one of fewer than four stages leaves out the last."""
    torch, models = need("torch"), need("torchvision").models.resnet
    if depth not in BLOCKS:
        return models.resnet50()
    blocks = BLOCKS[depth]
    net = models.ResNet(models.BasicBlock, [*blocks, 1, 1, 1][:4])
    for stage in range(len(blocks), 4):
        setattr(net, f"layer{stage + 1}", torch.nn.Identity())
    net.fc = torch.nn.Linear(64 << len(blocks) - 1, 1)
    return net
