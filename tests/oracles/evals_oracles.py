"""The evaluations in torch: FAIR's kNN formula and SGD on a linear classifier."""

import numpy as np

from tests.oracles import oracle

KNN_CASES = ((300, 40, 16, 5, 200, 0.1), (50, 23, 8, 3, 7, 0.07), (120, 64, 128, 10, 20, 0.5))


def knn_inputs(case: int):
    """Features of class clusters that overlap, so that votes matter, and the settings."""
    rows, tests, width, classes, k, temperature = KNN_CASES[case]
    random = np.random.default_rng(case)
    centres = random.normal(size=(classes, width))
    labels, truth = random.integers(0, classes, rows), random.integers(0, classes, tests)
    train = centres[labels] + 3 * random.normal(size=(rows, width))
    test = centres[truth] + 3 * random.normal(size=(tests, width))
    return train.astype(np.float32), labels, test.astype(np.float32), truth, classes, k, temperature


def probe_inputs():
    """Features in place of images, three epochs of batches, and the classifier's start."""
    random = np.random.default_rng(7)
    features = random.integers(0, 256, (3, 4, 16, 2, 3, 1), dtype=np.uint8)
    labels = random.integers(0, 4, (3, 4, 16))
    return features, labels


@oracle("torch")
def knn_fair():
    """Predictions of the weighted vote as in FAIR's CIFAR demo."""
    import torch
    from torch.nn import functional as F

    results = {}
    for case in range(len(KNN_CASES)):
        train, labels, test, _, classes, k, temperature = knn_inputs(case)
        bank = F.normalize(torch.from_numpy(train).double(), dim=1)
        query = F.normalize(torch.from_numpy(test).double(), dim=1)
        similarity, index = (query @ bank.T).topk(k, dim=1, sorted=True)
        neighbour = torch.from_numpy(labels)[index]
        votes = F.one_hot(neighbour, classes) * (similarity / temperature).exp()[:, :, None]
        results[f"case_{case}"] = votes.sum(1).argsort(dim=1, descending=True)[:, 0].numpy()
    return results


@oracle("torch", "torchvision", "lightly")
def knn_lightly():
    """Lightly's `knn_predict` on the same inputs."""
    import torch
    from torch.nn import functional as F

    from tests.oracles.torchvision_import import load_torchvision

    load_torchvision()
    from lightly.utils.benchmarking import knn_predict

    results = {}
    for case in range(len(KNN_CASES)):
        train, labels, test, _, classes, k, temperature = knn_inputs(case)
        bank = F.normalize(torch.from_numpy(train), dim=1).T.contiguous()
        query = F.normalize(torch.from_numpy(test), dim=1)
        ranked = knn_predict(query, bank, torch.from_numpy(labels), classes, knn_k=k, knn_t=temperature)
        results[f"case_{case}"] = ranked[:, 0].numpy()
    return results


@oracle("torch")
def linear_probe_torch():
    """A linear layer after torch's SGD with step decay and weight decay; started at zero."""
    import torch

    images, labels = probe_inputs()
    layer = torch.nn.Linear(6, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 2], gamma=0.1)
    losses = []
    for epoch in range(3):
        total = 0.0
        for batch, truth in zip(images[epoch], labels[epoch], strict=True):
            loss = torch.nn.functional.cross_entropy(
                layer(torch.from_numpy(batch.reshape(16, 6)).float() / 255), torch.from_numpy(truth)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        losses.append(total / 4)
    return {
        "kernel": layer.weight.detach().numpy().T.copy(),
        "bias": layer.bias.detach().numpy().copy(),
        "losses": np.array(losses, np.float32),
    }
