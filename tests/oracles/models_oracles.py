"""torch's BatchNorm and torchvision's ResNets on weights that a name and a shape determine."""

import zlib

import numpy as np

from tests.oracles import oracle
from tests.oracles.torchvision_import import load_torchvision

DEPTHS = (18, 34, 50, 101, 152)
# name of the case: (depth, stem, side of the image)
FEATURES = {
    "18": (18, "imagenet", 64),
    "odd": (18, "imagenet", 65),
    "cifar": (18, "cifar", 32),
    "50": (50, "imagenet", 64),
}
BATCH = 8
KEPT = 2
GROUPS = (1, 2, 4)
STEPS = 2
WATCHED = ("bn1.running_mean", "layer2.0.downsample.1.running_var", "layer4.0.bn2.running_mean")


def random(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weight(name, shape):
    """The value of a ResNet's array, of the size that a trained one would have."""
    if len(shape) == 4:
        return random(name, shape) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return 0.5 + np.abs(random(name, shape))
    centre = 1 if name.endswith("weight") else 0
    return np.float32(centre) + np.float32(0.2) * random(name, shape)


def images(name, side):
    return random(f"images {name}", (BATCH, side, side, 3))


def activations(step):
    """[8, 5, 3, 4], off centre and off scale."""
    return 3 * random(f"activations {step}", (8, 5, 3, 4)) + 2


def _torchvision_resnet(depth, stem="imagenet", stages=None):
    import torch

    resnet = load_torchvision().models.resnet
    model = resnet.ResNet(resnet.BasicBlock, stages) if stages else getattr(resnet, f"resnet{depth}")()
    if stem == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    model.fc = torch.nn.Identity()
    state = {
        name: torch.tensor(0 if name.endswith("num_batches_tracked") else weight(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    # so that the tests measure our rounding and not the sum of both
    return model.double()


@oracle("torch", "torchvision")
def resnet_parameter_counts():
    models = load_torchvision().models
    return {
        str(depth): np.array(
            sum(p.numel() for n, p in getattr(models, f"resnet{depth}")().named_parameters() if "fc." not in n)
        )
        for depth in DEPTHS
    }


@oracle("torch", "torchvision")
def resnet_features():
    """The first rows of eval and training mode, and some running statistics after the latter."""
    import torch

    found = {}
    for name, (depth, stem, side) in FEATURES.items():
        model = _torchvision_resnet(depth, stem)
        x = torch.tensor(images(name, side)).double().permute(0, 3, 1, 2)
        with torch.no_grad():
            found[f"{name} eval"] = model.eval()(x).numpy()[:KEPT].astype(np.float32)
            found[f"{name} train"] = model.train()(x).numpy()[:KEPT].astype(np.float32)
        state = model.state_dict()
        found |= {f"{name} {buffer}": state[buffer].numpy().astype(np.float32) for buffer in WATCHED}
    return found


@oracle("torch", "torchvision")
def resnet_gradients():
    """Of sum(features * cotangent) for one block a stage: each weight's norm and sixteen of its entries."""
    import torch

    model = _torchvision_resnet(None, "cifar", [1, 1, 1, 1]).train()
    features = model(torch.tensor(images("gradients", 16)).double().permute(0, 3, 1, 2))
    (features * torch.tensor(random("cotangent", (BATCH, 512)))).sum().backward()
    return {name: digest(p.grad.numpy()) for name, p in model.named_parameters()}


def digest(gradient):
    """[17]: the norm and entries at equal distances."""
    flat = gradient.reshape(-1)
    return np.concatenate([[np.linalg.norm(flat)], flat[:: flat.size // 16][:16]])


def _gradient(tensor):
    assert tensor.grad is not None
    return tensor.grad


@oracle("torch")
def batch_norm_torch():
    """Two training steps of torch's BatchNorm on each slice, its gradients, and eval mode afterwards."""
    import torch

    found = {}
    for groups in GROUPS:
        layers = [torch.nn.BatchNorm2d(4) for _ in range(groups)]
        for layer in layers:
            layer.weight.data = torch.tensor(random("scale", (4,)))
            layer.bias.data = torch.tensor(random("bias", (4,)))
        for step in range(STEPS):
            x = torch.tensor(activations(step)).permute(0, 3, 1, 2).requires_grad_()
            y = torch.cat([layer(part) for layer, part in zip(layers, x.chunk(groups), strict=True)])
            found[f"{groups} y{step}"] = y.detach().permute(0, 2, 3, 1).numpy()
        (y * torch.tensor(random("cotangent", (8, 5, 3, 4))).permute(0, 3, 1, 2)).sum().backward()
        found[f"{groups} dx"] = _gradient(x).permute(0, 2, 3, 1).numpy()
        found[f"{groups} dscale"] = torch.stack([_gradient(layer.weight) for layer in layers]).sum(0).numpy()
        found[f"{groups} dbias"] = torch.stack([_gradient(layer.bias) for layer in layers]).sum(0).numpy()
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(layer, name) for layer in layers]).mean(0)
            found[f"{groups} {name}"] = mean.numpy()
            getattr(layers[0], name).copy_(mean)
        found[f"{groups} eval"] = layers[0].eval()(x).detach().permute(0, 2, 3, 1).numpy()
    return found


@oracle("torch")
def linear_init_torch():
    """The bound of torch's initial `nn.Linear`, from a large one."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(400, 3000)
    return {"kernel": layer.weight.abs().max().detach().numpy(), "bias": layer.bias.abs().max().detach().numpy()}
