"""MoCo's training step: ssljax against lightly's building blocks in PyTorch."""

import copy
from typing import Any

from experiments.bench.harness import Ready, Side, need
from experiments.bench.training import autocast, compiled, jax_steps, torch_steps

QUEUE, MOMENTUM, TEMPERATURE, RATE, DECAY = 4096, 0.99, 0.1, 0.06, 5e-4


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
    if depth == 18:
        backbone, projector = resnet.resnet18(stem="cifar", dtype=dtype), heads.mlp((512, 128), dtype=dtype)
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
    """`(query view, key view) -> loss`, one update of lightly's MoCo; views [B, 3, h, w], channels-last."""
    torch, torchvision, _ = need("torch"), need("torchvision"), need("lightly")
    from lightly.loss import NTXentLoss  # type: ignore[import-not-found]
    from lightly.models import utils  # type: ignore[import-not-found]
    from lightly.models.modules import MoCoProjectionHead  # type: ignore[import-not-found]

    net = torchvision.models.resnet18() if depth == 18 else torchvision.models.resnet50()
    width, net.fc = net.fc.in_features, torch.nn.Identity()
    if depth == 18:
        net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    place = "cuda" if gpu else "cpu"
    query = torch.nn.Sequential(net, MoCoProjectionHead(width, width, 128))
    query = query.to(place, memory_format=torch.channels_last)
    key = copy.deepcopy(query)
    utils.deactivate_requires_grad(key)
    criterion = NTXentLoss(TEMPERATURE, memory_bank_size=(QUEUE, 128)).to(place)
    optimizer = torch.optim.SGD(query.parameters(), RATE, 0.9, weight_decay=DECAY)
    run_query, run_key = (compiled(net, gpu) if inductor else net for net in (query, key))

    def step(first, second):
        utils.update_momentum(query, key, MOMENTUM)
        with autocast(gpu):
            queries = run_query(first)
            with torch.no_grad():
                shuffled, order = utils.batch_shuffle(second)
                keys = utils.batch_unshuffle(run_key(shuffled), order)
            loss = criterion(queries.float(), keys.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step
