"""torch and lightly on the contrastive losses: values and gradients, in float64."""

import numpy as np

from tests.oracles import oracle

INFO_NCE_CASES = {"small": (4, 3, 6, 0.07), "wide": (7, 16, 33, 0.2), "single": (1, 5, 1, 1.0)}
NT_XENT_CASES = {"small": (4, 3, 0.5), "wide": (9, 16, 0.1), "pair": (2, 5, 1.0)}
#                       B, D, N, first row, temperature
IN_BATCH_CASES = {"small": (4, 3, 4, 0, 0.2), "wide": (9, 16, 9, 0, 1.0), "part": (3, 5, 12, 6, 0.5)}
BINARY_CASES = {"small": (5, 3), "wide": (12, 8)}


def normals(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def info_nce_inputs(name: str) -> tuple[list[np.ndarray], float]:
    batch, dim, size, temperature = INFO_NCE_CASES[name]
    return normals(len(name), (batch, dim), (batch, dim), (size, dim)), temperature


def nt_xent_inputs(name: str) -> tuple[list[np.ndarray], float]:
    batch, dim, temperature = NT_XENT_CASES[name]
    return normals(10 + len(name), (batch, dim), (batch, dim)), temperature


def in_batch_inputs(name: str) -> tuple[list[np.ndarray], int, float]:
    batch, dim, count, first_row, temperature = IN_BATCH_CASES[name]
    return normals(30 + len(name), (batch, dim), (count, dim)), first_row, temperature


def binary_inputs(name: str) -> list[np.ndarray]:
    batch, dim = BINARY_CASES[name]
    left, right, noise = normals(20 + len(name), (batch, dim), (batch, dim), (batch,))
    return [left, right, np.where(noise > 0, 1, -1)]


def _value_and_gradients(name, arrays, function):
    import torch

    leaves = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    loss = function(*leaves)
    loss.backward()
    gradients = {f"{name}_gradient_{i}": leaf.grad.numpy() for i, leaf in enumerate(leaves)}  # type: ignore
    return {f"{name}_loss": loss.detach().numpy(), **gradients}


@oracle("torch")
def info_nce_torch():
    import torch.nn.functional as functional
    from torch import cat, zeros

    results = {}
    for similarity in ("cosine", "inner"):
        for name in INFO_NCE_CASES:
            arrays, temperature = info_nce_inputs(name)

            def loss(query, positive, negatives, temperature=temperature, cosine=similarity == "cosine"):
                if cosine:
                    query, positive = functional.normalize(query), functional.normalize(positive)
                    negatives = functional.normalize(negatives)
                logits = cat([(query * positive).sum(1, keepdim=True), query @ negatives.T], 1) / temperature
                return functional.cross_entropy(logits, zeros(len(query)).long())

            results |= _value_and_gradients(f"{similarity}_{name}", arrays, loss)
    return results


@oracle("torch", "torchvision", "lightly")
def nt_xent_lightly():
    from tests.oracles.torchvision_import import load_torchvision

    load_torchvision()
    from lightly.loss import NTXentLoss

    results = {}
    for name in NT_XENT_CASES:
        arrays, temperature = nt_xent_inputs(name)
        results |= _value_and_gradients(name, arrays, NTXentLoss(temperature=temperature))
    return results


@oracle("torch")
def in_batch_torch():
    import torch.nn.functional as functional
    from torch import arange, einsum

    results = {}
    for name in IN_BATCH_CASES:
        arrays, first_row, temperature = in_batch_inputs(name)

        def loss(query, keys, first_row=first_row, temperature=temperature):
            scores = einsum("bd,nd->bn", functional.normalize(query), functional.normalize(keys))
            labels = first_row + arange(len(query))
            return functional.cross_entropy(scores / temperature, labels) * 2 * temperature

        results |= _value_and_gradients(name, arrays, loss)
    return results


@oracle("torch")
def binary_contrastive_torch():
    import torch.nn.functional as functional
    from torch import tensor

    results = {}
    for name in BINARY_CASES:
        *arrays, labels = binary_inputs(name)
        targets = tensor((labels + 1) / 2)
        results |= _value_and_gradients(
            name,
            arrays,
            lambda a, b, t=targets: functional.binary_cross_entropy_with_logits((a * b).sum(1), t),
        )
    return results
