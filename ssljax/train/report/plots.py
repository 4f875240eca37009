"""The figures of a report; each function draws one and returns it as PNG bytes."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

PAPER, INK, QUIET, GRID = "#fcfcfa", "#1d1f21", "#5f656b", "#e6e6e2"
SERIES = ("#1f5a94", "#c2571a", "#3d7d4a", "#7a4b94")
RIGHT, WRONG = "#2f7d3f", "#b5322a"
DPI = 200
MAX_COLUMNS, MAX_QUERIES, MAX_POINTS = 10, 8, 2500


def curves(series: Mapping[str, tuple[Any, Any]], *, reference: tuple[str, float] | None = None) -> bytes:
    """Curves over training steps.

    Args:
        series: `{label: (steps, values)}`; NaN makes a gap. A long noisy line is also shown smoothed.
        reference: (label, value) of a level to compare with, drawn dashed.

    Returns:
        PNG.
    """
    figure, axes = _figure((4.6, 2.5))
    for colour, (label, (steps, values)) in zip(SERIES, series.items(), strict=False):
        steps, values = np.asarray(steps), np.asarray(values, float)
        few = len(steps) <= 40
        if len(steps) > 200:
            axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.3)
            values = _smooth(values, len(values) // 50)
        axes.plot(steps, values, color=colour, linewidth=1.5, marker="o" if few else None, markersize=3, label=label)
    if reference is not None:
        axes.axhline(reference[1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label=reference[0])
    if len(series) > 1 or reference is not None:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")
    axes.set_xlabel("step", fontsize=8, color=QUIET)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.margins(x=0.02)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    axes.yaxis.get_offset_text().set(fontsize=8, color=QUIET)
    return png(figure)


def image_rows(rows: Mapping[str, np.ndarray]) -> bytes:
    """Rows of images with a name at the left; each column shows one image and its views.

    Args:
        rows: `{name: [n, H, W, C]}`, uint8 or float in [0, 1], C as `neighbours`; the first `MAX_COLUMNS` are shown.

    Returns:
        PNG.
    """
    count = min(MAX_COLUMNS, *(len(images) for images in rows.values()))
    figure = blank((0.85 * count + 0.9, 0.85 * len(rows)))
    left = 0.9 / (0.85 * count + 0.9)
    for line, (name, images) in enumerate(rows.items()):
        top = 1 - line / len(rows)
        figure.text(0.0, top - 0.5 / len(rows), name.replace("_", " "), fontsize=8, color=QUIET, va="center")
        for column, image in enumerate(images[:count]):
            width, height = (1 - left) / count, 1 / len(rows)
            _image(figure, image, (left + column * width, top - height, width * 0.95, height * 0.95))
    return png(figure)


def neighbours(queries, found, query_labels, found_labels, class_names=None) -> bytes:
    """Each query and its nearest neighbours, with frames that show whether they have the query's label.

    Args:
        queries: uint8[n, H, W, C]; the first `MAX_QUERIES` are shown. Of more than three channels the first three are
            shown as RGB, of two the first as grey.
        found: uint8[n, k, H, W, C], nearest first.
        query_labels: int[n]; None: there are no labels, and no frames.
        found_labels: int[n, k]; None likewise.
        class_names: of the labels; numbers are shown without them.

    Returns:
        PNG.
    """
    rows, columns = min(MAX_QUERIES, len(queries)), found.shape[1]
    name_width, gap, cell = 1.15, 0.25, 0.8
    total = name_width + cell * (columns + 1) + gap
    figure = blank((total, cell * rows))
    for row in range(rows):
        bottom = 1 - (row + 1) / rows
        name = "" if query_labels is None else class_name(query_labels[row], class_names)
        figure.text(0, bottom + 0.5 / rows, name, fontsize=8, color=INK, va="center", parse_math=False)
        cells: list[Any] = [(queries[row], name_width, None)]
        for k in range(columns):
            colour = None
            if query_labels is not None:
                colour = RIGHT if found_labels[row, k] == query_labels[row] else WRONG
            cells.append((found[row, k], name_width + cell * (k + 1) + gap, colour))
        for image, x, colour in cells:
            box = (x / total, bottom + 0.06 / rows, 0.88 * cell / total, 0.88 / rows)
            _image(figure, image, box, frame=colour)
    return png(figure)


def embedding_map(embeddings, labels, class_names=None) -> bytes:
    """Embeddings in two dimensions by t-SNE on cosine distances, coloured by class.

    Args:
        embeddings: float[N, D], N at least 4, finite; of more than `MAX_POINTS` rows a fixed random sample is shown.
        labels: int[N].
        class_names: of the labels.

    Returns:
        PNG.
    """
    import matplotlib

    embeddings, labels = np.asarray(embeddings, np.float32), np.asarray(labels)
    if len(labels) > MAX_POINTS:
        rows = np.random.default_rng(0).choice(len(labels), MAX_POINTS, replace=False)
        embeddings, labels = embeddings[rows], labels[rows]
    points, classes = _two_dimensions(embeddings), np.unique(labels)
    figure, axes = _figure((7.2, 5.0))
    palette = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20" if len(classes) <= 20 else "hsv"]
    for index, label in enumerate(classes):
        colour = palette(index if len(classes) <= 20 else index / len(classes))
        member = points[labels == label]
        axes.scatter(*member.T, s=7 if len(points) > 200 else 30, color=colour, linewidths=0, alpha=0.8)
    if len(classes) <= 20:
        names = [class_name(label, class_names) for label in classes]
        legend = axes.legend(axes.collections, ["" for _ in names], frameon=False, fontsize=8, labelcolor=INK,
                             loc="center left", bbox_to_anchor=(1.0, 0.5),
                             markerscale=2 if len(points) > 200 else 1)  # fmt: skip
        # set afterwards: a legend leaves out names that begin with an underscore, and takes dollars for formulas
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set(text=name, parse_math=False)
    axes.set_axis_off()
    return png(figure)


def _two_dimensions(embeddings) -> np.ndarray:
    from sklearn.manifold import TSNE

    if np.ptp(embeddings, axis=0).max() < 1e-6:  # collapsed: one point, on which t-SNE divides by zero
        return np.zeros((len(embeddings), 2))
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0, max_iter=500)
    return tsne.fit_transform(embeddings)


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over a window of `width` on either side, cut at the ends; NaN is ignored."""
    known = np.isfinite(values)
    sums = np.cumsum(np.r_[0, np.where(known, values, 0)])
    counts = np.cumsum(np.r_[0, known])
    low = np.maximum(np.arange(len(values)) - width, 0)
    high = np.minimum(np.arange(len(values)) + width + 1, len(values))
    total, count = sums[high] - sums[low], counts[high] - counts[low]
    return np.where(known, total / np.maximum(count, 1), np.nan)


def class_name(label, class_names) -> str:
    """The name of a label, or its number where it has none."""
    return str(class_names[int(label)]) if class_names and 0 <= int(label) < len(class_names) else str(int(label))


def blank(size) -> Any:
    """An empty matplotlib figure of `size` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _figure(size) -> tuple[Any, Any]:
    figure = blank(size)
    axes = figure.add_subplot(facecolor=PAPER)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    axes.tick_params(labelsize=8, labelcolor=QUIET, color=QUIET, left=False)
    return figure, axes


def _image(figure, image, box, frame=None) -> None:
    axes = figure.add_axes(box)
    image = np.asarray(image)
    image = image if image.dtype == np.uint8 else np.clip(image, 0, 1)
    image = np.repeat(image[..., :1], 3, axis=-1) if image.shape[-1] < 3 else image[..., :3]
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=frame is not None, color=frame or INK, linewidth=2.5)


def png(figure) -> bytes:
    """A matplotlib figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight", pad_inches=0.05)
    return out.getvalue()
