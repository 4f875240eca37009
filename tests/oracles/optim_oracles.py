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
DECAYS = np.array([0.04, 0.4, 0.1, 0.0, 0.3, 0.2])
LIMIT = 1.5
HELD = 3
LAYERS, LAYER_DECAY = 3, 0.6
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


def _nothing(step, optimiser, tensors):
    pass


def _trajectory(case, make, before=_nothing, after=_nothing, given=None):
    """`{case_name: [STEPS, ...]}`, the parameters after each step; `before` and `after` stand around torch's own."""
    import torch

    parameters, gradients = given or parameters_and_gradients()
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()}
    optimiser = make(tensors)
    history = {name: [] for name in tensors}
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATES[step]
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[name][step], dtype=torch.float64)
        before(step, optimiser, tensors)
        optimiser.step()
        after(step, optimiser, tensors)
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
def adamw_scheduled_torch():
    """The kernel's weight decay is set by hand before each step, as DINO's training loop does."""
    from torch.optim import AdamW

    def make(tensors):
        return AdamW([{"params": [tensors["kernel"]]}, {"params": [tensors["bias"]], "weight_decay": 0.0}], lr=1.0)

    def before(step, optimiser, tensors):
        optimiser.param_groups[0]["weight_decay"] = DECAYS[step]

    return _trajectory("scheduled", make, before)


def depth_of(path: str) -> int:
    """MAE's: the embedding is layer 0, block i is layer i + 1, all else the last."""
    part = path.split(".")[0].split("/")[0]
    return 0 if part == "patch_embed" else int(part.removeprefix("blocks_")) + 1 if "blocks" in part else LAYERS


def tree_of_several_shapes() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`{name: [...]}` and `{name: [STEPS, ...]}`; some gradients are long, some short, one is 0."""
    generator = np.random.default_rng(1)
    shapes = {"patch_embed.kernel": (2, 2, 3, 4), "patch_embed.bias": (4,), "head.kernel": (4, 5), "head.scale": ()}
    shapes |= {f"blocks_{i}.{name}": shape for i in range(2) for name, shape in (("kernel", (4, 4)), ("bias", (4,)))}
    parameters = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = {}
    for name, shape in shapes.items():
        lengths = np.exp(generator.normal(scale=2.0, size=(STEPS, *[1] * len(shape))))
        gradients[name] = (lengths * generator.normal(size=(STEPS, *shape))).astype(np.float32)
    gradients["head.kernel"][1] = 0
    return parameters, gradients


@oracle("torch")
def per_parameter_torch():
    """Gradients clipped one by one, AdamW whose first updates are undone, AdamW with a rate for each layer."""
    from torch.optim import SGD, AdamW

    given = tree_of_several_shapes()

    def clip(step, optimiser, tensors):
        for tensor in tensors.values():
            factor = LIMIT / (tensor.grad.norm(2) + 1e-6)
            if factor < 1:
                tensor.grad.mul_(factor)

    kept = {}

    def keep(step, optimiser, tensors):
        kept.update({name: tensor.clone() for name, tensor in tensors.items()})

    def undo(step, optimiser, tensors):
        if step < HELD:
            tensors["head.kernel"].copy_(kept["head.kernel"])

    def layer_groups(tensors):
        groups = [{"params": [t], "scale": LAYER_DECAY ** (LAYERS - depth_of(name))} for name, t in tensors.items()]
        return AdamW(groups, lr=1.0, weight_decay=0.3)

    def scale_rates(step, optimiser, tensors):
        for group in optimiser.param_groups:
            group["lr"] = RATES[step] * group["scale"]

    return (
        _trajectory("clipped", lambda t: SGD(list(t.values()), lr=1.0), clip, given=given)
        | _trajectory("held", lambda t: AdamW(list(t.values()), lr=1.0, weight_decay=0.3), keep, undo, given=given)
        | _trajectory("layers", layer_groups, scale_rates, given=given)
    )


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
