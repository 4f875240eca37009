"""Names in a report's pictures."""

import warnings

import numpy as np

from ssljax.train.report import matrix_plots, plots

HOSTILE = ["$x^{$", "_a", "__", r"\frac{", "$", "a$b$c", "<b>&", "", "\n", "\u4e2d\u6587"]


def test_names_of_any_kind_are_drawn_as_they_are(monkeypatch):
    """Names that matplotlib would take for formulas or leave out of a legend; its warning of a missing glyph apart."""
    shown = []
    monkeypatch.setattr(plots, "png", lambda figure: shown.append(figure) or b"")
    random = np.random.default_rng(0)
    embeddings, labels = random.normal(size=(40, 4)), np.arange(40) % len(HOSTILE)
    plots.embedding_map(embeddings, labels, HOSTILE)
    (legend,) = [axes.get_legend() for axes in shown[0].axes]
    assert [text.get_text() for text in legend.get_texts()] == HOSTILE
    pictures = random.integers(0, 255, (3, 8, 8, 3), np.uint8)
    plots.neighbours(pictures, pictures[None].repeat(3, 0), labels[:3], labels[:9].reshape(3, 3), HOSTILE)
    monkeypatch.setattr(matrix_plots, "png", lambda figure: shown.append(figure) or b"")
    matrix_plots.similarity_matrix(embeddings, embeddings, labels, HOSTILE)
    matrix_plots.attention_matrix(np.eye(len(HOSTILE)), HOSTILE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        for figure in shown:
            figure.canvas.draw()
