"""torch's optimisers and schedulers, step by step, in float64."""

import numpy as np

from tests.oracles import oracle

STEPS = 6
RATES = np.array([0.1, 0.1, 0.03, 0.3, 0.05, 0.2])
SGD_CASES = {
    "moco": {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": False},
    "nesterov": {"momentum": 0.8, "weight_decay": 1e-3, "nesterov": True},
    "plain": {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False},
}
ADAMW_CASES = {
    "mae": {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05},
    "dino": {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.4},
}


def parameters_and_gradients() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`{name: [...]}` and `{name: [STEPS, ...]}`."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,)}
    parameters = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = {name: generator.normal(size=(STEPS, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return parameters, gradients


def _trajectory(case, make):
    import torch

    parameters, gradients = parameters_and_gradients()
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()}
    optimiser = make(tensors)
    history = {name: [] for name in tensors}
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATES[step]
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[name][step], dtype=torch.float64)
        optimiser.step()
        for name, tensor in tensors.items():
            history[name].append(tensor.numpy().copy())
    return {f"{case}_{name}": np.stack(values) for name, values in history.items()}


@oracle("torch")
def sgd_torch():
    from torch.optim import SGD

    results = {}
    for case, settings in SGD_CASES.items():
        results |= _trajectory(case, lambda t, s=settings: SGD(list(t.values()), lr=1.0, **s))
    return results


@oracle("torch")
def adamw_torch():
    """The bias does not decay."""
    from torch.optim import AdamW

    results = {}
    for case, settings in ADAMW_CASES.items():

        def make(tensors, settings=settings):
            groups = [{"params": [tensors["kernel"]]}, {"params": [tensors["bias"]], "weight_decay": 0.0}]
            return AdamW(groups, lr=1.0, **settings)

        results |= _trajectory(case, make)
    return results


@oracle("torch")
def schedules_torch():
    """Learning rates of 12 steps: MultiStepLR, CosineAnnealingLR and LinearLR followed by the latter."""
    import torch
    from torch.optim import lr_scheduler

    def rates(make, steps=12):
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.3)
        scheduler = make(optimiser)
        values = []
        for _ in range(steps):
            values.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
        return np.array(values)

    def warm_cosine(optimiser):
        # torch refuses a first factor of 0; the rates from step 1 on are the same
        warm = lr_scheduler.LinearLR(optimiser, 1e-12, 1.0, total_iters=4)
        cosine = lr_scheduler.CosineAnnealingLR(optimiser, 8)
        return lr_scheduler.SequentialLR(optimiser, [warm, cosine], [4])

    return {
        "steps": rates(lambda o: lr_scheduler.MultiStepLR(o, [3, 4, 9], 0.1)),
        "cosine": rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 12, eta_min=0.02)),
        "warm_cosine": rates(warm_cosine),
    }
