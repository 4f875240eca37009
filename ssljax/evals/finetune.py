"""Fine-tuning: a pre-trained text encoder and a new head, trained together on labelled sequences, seed by seed."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ssljax.evals import baselines, features, metrics
from ssljax.evals.finetune_steps import (
    INPUTS,
    Data,
    FinetuneConfig,
    Kind,
    begin,
    predict,
    read_shape,
    step,
    train_batches,
)
from ssljax.types import BadInputError, Encoder, PyTree

__all__ = ["FinetuneConfig", "finetune", "finetune_seeds", "predict"]

Score = Callable[[np.ndarray], dict[str, float]]


def finetune(
    encoder: Encoder,
    head: Encoder,
    params: PyTree,
    train: Data,
    dev: Data,
    *,
    kind: Kind,
    config: FinetuneConfig,
    score: Score | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `head` and all of the encoder on `train`, then evaluate them once on `dev`.

    A batch is cut to the shortest of a few lengths that holds its rows, which changes nothing but dropout's draws;
    the number of devices changes nothing. One program is compiled for each such length, whatever the seed.

    Args:
        encoder: `(tokens, segments, lengths) -> {"tokens": [B, L, H], "pooled": [B, H]}`.
        head: pooled [B, H] -> [B, C], C 1 for regression; for "span" tokens [B, L, H] -> [B, L, 2].
        params: the encoder's; not modified.
        train: tokens int32[N, L], segments int32[N, L], lengths int32[N] of at least 1, and label: int32[N] classes,
            float32[N] numbers, or for "span" int32[N, 2], first and last token.
        dev: the same; evaluated as a whole.
        kind: chooses the loss: cross-entropy, squared error, or the mean of two cross-entropies over the sequence.
        config: the numbers.
        score: `outputs [N, C] or [N, L, 2] -> {name: figure}`; None: the accuracy, the two correlations or the share
            of spans with both ends right, in per cent.
        seed: seed of the head, the order of the rows and dropout.
        say: called with a sentence if nothing is learned in the first third of the steps.

    Returns:
        `{"metric": {name: figure}, "losses": [a loss per step], "warnings": [sentence], "outputs": float32 of the dev
        rows, "params": {"encoder", "head"}}`. The outputs of "span" are -1e9 beyond a row's length.

    Raises:
        BadInputError: no rows, missing arrays, or labels that do not fit the head.

    Reference: arXiv 1810.04805, section 4 and appendix A.3; google-research/bert `run_classifier.py`, `run_squad.py`.

    Differs from the official code: an epoch's last rows fill a smaller batch instead of being left out, and padding
        takes no part in the softmax over a span's places.
    """
    _check(encoder, head, params, train, dev, kind)
    total = config.epochs * -(-len(train["label"]) // config.batch_size)
    static = (encoder, head, kind, config, total)
    first_key, key = jax.random.split(jax.random.key(seed))
    state = begin(params, first_key, *static)
    losses, warnings = [], []
    constant = baselines.constant_loss(train, kind)
    for number, batch in enumerate(train_batches(train, config, seed), start=1):
        state, loss = step(state, batch, jax.random.fold_in(key, number), *static)
        losses.append(loss)
        if number == -(-total // 3):
            warnings += _not_learned(losses, constant, total)
            for sentence in warnings:
                say(sentence)
    if warnings:
        warnings += _not_learned(losses, constant, total)
    outputs = predict(encoder, head, state[0], dev, kind=kind, batch_size=config.batch_size)
    score = score or _default_score(kind, dev["label"])
    return {
        "metric": score(outputs),
        "losses": [float(loss) for loss in jax.device_get(losses)],
        "warnings": warnings,
        "outputs": outputs,
        "params": state[0],
    }


def finetune_seeds(
    encoder: Encoder,
    head: Encoder,
    params: PyTree,
    train: Data,
    dev: Data,
    *,
    kind: Kind,
    config: FinetuneConfig,
    score: Score | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """`finetune` for the seeds `seed`, `seed + 1` ... and the score of a constant answer.

    Returns:
        `{"mean": {name: figure}, "sd": {name: figure}, "seeds": [{name: figure}], "majority": {name: figure},
        "losses": [[loss]], "warnings": [[sentence]], "outputs" and "params": those of the first seed}`; the sd is
        that of a sample (n - 1), 0 for one seed; "majority" answers the most frequent class or the mean, and is empty
        for "span".

    Raises:
        BadInputError: as `finetune`.
    """
    runs = []
    for one in range(seed, seed + config.seeds):
        run = finetune(encoder, head, params, train, dev, kind=kind, config=config, score=score, seed=one, say=say)
        kept = ("metric", "losses", "warnings", *(() if runs else ("outputs", "params")))
        runs.append({name: run[name] for name in kept})
        figures = ", ".join(f"{name} {value:.1f}" for name, value in run["metric"].items())
        say(f"seed {one}: {figures}")
    names, majority = list(runs[0]["metric"]), {}
    if kind != "span":
        score = score or _default_score(kind, dev["label"])
        outputs = baselines.constant(train["label"], len(dev["label"]), runs[0]["outputs"].shape[1])
        majority = score(outputs)
    figures = {name: np.array([run["metric"][name] for run in runs]) for name in names}
    return {
        "mean": {name: float(values.mean()) for name, values in figures.items()},
        "sd": {name: float(values.std(ddof=1)) if len(values) > 1 else 0.0 for name, values in figures.items()},
        "seeds": [run["metric"] for run in runs],
        "majority": majority,
        "losses": [run["losses"] for run in runs],
        "warnings": [run["warnings"] for run in runs],
        "outputs": runs[0]["outputs"],
        "params": runs[0]["params"],
    }


def _not_learned(losses: list, constant: float, total: int) -> list[str]:
    """A sentence if the second half of the losses so far is no better than a constant answer's."""
    late = float(np.mean(jax.device_get(losses[len(losses) // 2 :])))
    if late < 0.98 * constant:  # false for NaN
        return []
    return [
        f"does not learn: after {len(losses)} of {total} steps the loss is {late:.3f}, and a constant answer's is "
        f"{constant:.3f}; try another learning rate, more epochs or another seed."
    ]


def _default_score(kind: Kind, label: np.ndarray) -> Score:
    if kind == "classification":
        return lambda outputs: {"accuracy": metrics.accuracy(outputs.argmax(1), label)}
    if kind == "span":
        return lambda outputs: {"exact": 100 * float(np.mean((outputs.argmax(1) == label).all(1)))}
    both = {"pearson": metrics.pearson, "spearman": metrics.spearman}
    return lambda outputs: {name: metric(outputs[:, 0], label) for name, metric in both.items()}


def _check(encoder, head, params, train: Data, dev: Data, kind: Kind) -> None:
    for name, data in (("train", train), ("dev", dev)):
        missing = [part for part in (*INPUTS, "label") if part not in data]
        if missing:
            raise BadInputError(f"{name} has no {missing[0]!r}; give {', '.join((*INPUTS, 'label'))}.")
        # an encoder refuses what is too long for it
        read = read_shape(encoder, params, kind, data["tokens"].shape[1])
        made, _ = jax.eval_shape(lambda x: head.init(jax.random.key(0), x), read)
        outputs, _ = jax.eval_shape(lambda p, x: head.apply(p, {}, x, train=False), made, read)
        wanted = {"span": 2, "regression": 1}.get(kind, outputs.shape[-1])
        if outputs.shape[-1] != wanted:
            raise BadInputError(f"the head has {outputs.shape[-1]} outputs; {kind} needs {wanted}.")
        _check_labels(name, data, kind, outputs.shape[-1])


def _check_labels(name: str, data: Data, kind: Kind, classes: int) -> None:
    rows, label = len(data["tokens"]), data["label"]
    if rows == 0 or data["lengths"].min() < 1:
        raise BadInputError(f"{name} has no rows, or rows without tokens; remove empty rows.")
    if kind == "classification":
        features.check_labels(f"{name}['label']", label, rows, classes)
    elif label.shape != ((rows, 2) if kind == "span" else (rows,)):
        raise BadInputError(f"{name}['label'] has the shape {label.shape} for {rows} rows of {kind}.")
    if kind == "span" and (label.min() < 0 or (label >= data["lengths"][:, None]).any()):
        raise BadInputError(f"{name}['label'] has a span that is not within its row; fix it.")
