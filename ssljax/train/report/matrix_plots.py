"""Matrices of a report: similarities of embeddings, attention between words; each function returns PNG bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssljax.train.report.plots import INK, QUIET, blank, class_name, png


def similarity_matrix(before, after, labels, class_names=None) -> bytes:
    """Cosine similarities of all pairs before and after training, side by side, ordered by label.

    Args:
        before: float[N, D].
        after: float[N, E], the same images.
        labels: int[N]; lines separate the classes.
        class_names: of the labels.

    Returns:
        PNG.
    """
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    edges = np.append(starts, len(labels))
    names = [class_name(label, class_names) for label in classes]
    figure = blank((9.2, 4.6))
    drawn: Any = None
    panels = [figure.add_axes((0.09 + 0.43 * panel, 0.2, 0.37, 0.74)) for panel in (0, 1)]
    for axes, title, features in zip(panels, ("before training", "after training"), (before, after), strict=True):
        rows = np.asarray(features, float)[order]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        drawn = axes.imshow(rows @ rows.T, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axes.set_title(title, fontsize=10, color=INK)
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color="white", linewidth=1.2)
            axes.axvline(edge - 0.5, color="white", linewidth=1.2)
        middles = (edges[:-1] + edges[1:] - 1) / 2
        axes.set_xticks(middles, names, rotation=90, fontsize=7, color=INK, parse_math=False)
        axes.set_yticks(middles, names if axes is panels[0] else [], fontsize=7, color=INK, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, cax=figure.add_axes((0.92, 0.2, 0.014, 0.74)))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=7, labelcolor=QUIET, length=0)
    bar.set_label("cosine similarity", fontsize=8, color=QUIET)
    return png(figure)


def attention_matrix(weights, words: Sequence[str]) -> bytes:
    """One head's attention: a row for each query word, a column for each key word.

    Args:
        weights: float[L, L], rows that sum to 1.
        words: L strings.

    Returns:
        PNG.
    """
    side = 1.6 + 0.26 * len(words)
    figure = blank((side, side))
    axes = figure.add_axes((0.2, 0.05, 0.75, 0.75))
    axes.imshow(np.asarray(weights, float), vmin=0, cmap="Blues", interpolation="nearest")
    places = np.arange(len(words))
    axes.set_xticks(places, words, rotation=90, fontsize=8, color=INK, parse_math=False)
    axes.set_yticks(places, words, fontsize=8, color=INK, parse_math=False)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return png(figure)
