"""torch's cross-entropies with gradients, and timm's LAMB, which follows NVIDIA's, step by step."""

import numpy as np

from tests.oracles import oracle
from tests.oracles.torchvision_import import load_torchvision

STEPS = 6
PHASE_2 = 4
RATES = np.array([0.01, 0.02, 0.03, 0.015, 0.05, 0.02])
LAMB_CASES = {
    "nvidia": {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0},
    "other": {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "max_grad_norm": 100.0},
}


def masked_inputs(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [*shape], targets [*shape[:-1]] with every class among them if there is room, weights 0 or 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, shape).astype(np.float32)
    targets = rng.permutation(np.arange(np.prod(shape[:-1])) % shape[-1]).reshape(shape[:-1]).astype(np.int32)
    return logits, targets, (rng.random(shape[:-1]) < 0.6).astype(np.float32)


SHAPES = {"small": (2, 3, 5), "wide": (4, 2, 40), "flat": (1, 7, 3)}


@oracle("torch")
def masked_torch():
    """Empty slots get torch's `ignore_index`; losses and gradients in float64."""
    import torch
    import torch.nn.functional as F

    results = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        logits, targets, weights = masked_inputs(seed, shape)
        scores = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor(np.where(weights > 0, targets, -100)).long()
        loss = F.cross_entropy(scores.reshape(-1, shape[-1]), labels.reshape(-1))
        loss.backward()
        assert scores.grad is not None
        results |= {f"{name}_loss": loss.detach().numpy(), f"{name}_gradient": scores.grad.numpy()}
    return results


def lamb_inputs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`{name: [...]}` and `{name: [STEPS, ...]}`; the gradients' global norm passes 1 in some steps only."""
    rng = np.random.default_rng(7)
    shapes = {"kernel": (4, 3), "table": (5, 2), "zeros": (2, 2), "bias": (3,), "scale": (3,)}
    size = np.array([0.05, 2.0, 0.1, 0.6, 0.02, 1.0])
    parameters = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    parameters["zeros"][:] = 0
    gradients = {
        name: (rng.normal(size=(STEPS, *shape)) * size.reshape(-1, *(1,) * len(shape))).astype(np.float32)
        for name, shape in shapes.items()
    }
    return parameters, gradients


@oracle("torch", "torchvision", "timm")
def lamb_timm():
    """The parameters after each step; `bias` and `scale` do not decay. In `restarted`, the count restarts."""
    import torch

    load_torchvision()  # timm imports it
    from timm.optim import Lamb

    results = {}
    for case, settings in (LAMB_CASES | {"restarted": LAMB_CASES["nvidia"]}).items():
        parameters, gradients = lamb_inputs()
        tensors = {name: torch.nn.Parameter(torch.tensor(value).double()) for name, value in parameters.items()}
        decayed = [tensor for tensor in tensors.values() if tensor.ndim > 1]
        others = [tensor for tensor in tensors.values() if tensor.ndim == 1]
        rule = Lamb([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1.0, **settings)
        history = {name: [] for name in tensors}
        for step in range(STEPS):
            for group in rule.param_groups:
                group["lr"] = RATES[step]
                if case == "restarted" and step == PHASE_2:
                    group["step"] *= 0
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(gradients[name][step]).double()
            rule.step()
            for name, tensor in tensors.items():
                history[name].append(tensor.detach().numpy().copy())
        results |= {f"{case}_{name}": np.stack(values) for name, values in history.items()}
    return results
