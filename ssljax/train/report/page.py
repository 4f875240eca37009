"""The report of a run: one self-contained HTML page."""

import base64
import dataclasses
import html
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ssljax.train import collapse
from ssljax.train.report import plots
from ssljax.train.report.style import CSS

NO_FIGURE = "\N{EN DASH}"
LABELS = {"knn": "kNN", "linear_10_per_class": "linear, 10 per class", "moco": "MoCo", "simclr": "SimCLR"}
LOWER_IS_BETTER = {"perplexity"}
SPEED = {
    "Waiting for data, share of the time": {"input_wait": "waiting"},
    "Host time between two dispatches, ms": {"host_gap_ms": "median"},
}
CHARTS = {
    "Loss": {"loss": "loss"},
    "Pretext accuracy, per cent": {"pretext_top1": "top-1", "pretext_top5": "top-5"},
    "kNN accuracy during training, per cent": {"knn": "kNN"},
    "Learning rate": {"lr": "learning rate"},
    "Momentum of the teacher": {"momentum": "momentum"},
    "Weight decay": {"weight_decay": "weight decay"},
    "Deviation of the normalised embeddings": {"embedding_std": "std"},
    "Effective rank of the embeddings (RankMe)": {"rankme": "RankMe"},
    "Effective rank of what tells pictures apart (LiDAR)": {"lidar": "LiDAR"},
    "Decay of the eigenvalues of the embeddings (alpha-ReQ)": {"alpha_req": "exponent"},
    "Alignment and uniformity, lower is better": {"alignment": "alignment", "uniformity": "uniformity"},
}


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of a report; sections without data are omitted.

    Attributes:
        title: of the page.
        description: paragraphs separated by empty lines.
        recipe: (name, paper's value or None, ours).
        metrics: rows of metrics.jsonl, each with "step"; None stands for a value that was not finite.
        results: `{row: {column: per cent, (mean, sd) or None}}`.
        samples: rows of images by name, such as the originals and their views: uint8[n, H, W, C] or float in [0, 1].
        neighbours: (queries uint8[n, H, W, C], found uint8[n, k, H, W, C], query labels [n], found labels [n, k]);
            without labels the latter two are None.
        embeddings: (float[N, D], labels int[N]).
        class_names: of the labels.
        colours: what the colours of the map are.
        figures: (caption, PNG) pairs, additional figures of the experiment.
        environment: `{name: value}`; "seconds" is shown as hours and minutes.
        embedding_dim: D of the embeddings whose deviation is in the metrics, for the 1 / sqrt(D) line.
        charts: `{caption: {metric: label}}`, the curves to draw of `metrics`; those of `SPEED` follow.
        results_note: what the numbers of `results` are.
        tables: (title, header, rows) of strings, each a section of its own.
    """

    title: str
    description: str = ""
    recipe: Sequence[tuple[str, Any, Any]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    results: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    samples: Mapping[str, np.ndarray] | None = None
    neighbours: tuple[np.ndarray, np.ndarray, Any, Any] | None = None
    embeddings: tuple[np.ndarray, np.ndarray] | None = None
    class_names: Sequence[str] | None = None
    colours: str = "class"
    figures: Sequence[tuple[str, bytes]] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    embedding_dim: int | None = None
    charts: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=lambda: CHARTS)
    results_note: str = "Top-1 accuracy in per cent."
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page atomically: a reader sees the old file or the new one.

    Args:
        path: of the .html file; its folder is created if it is missing.
        report: what to show.
    """
    page, path = render(report), epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        partial.write_text(page)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def render(report: Report) -> str:
    """The page as a string."""
    sections = [
        ("Results", _results(report)),
        ("Training", _curves(report)),
        ("What the network sees", _samples(report)),
        ("Nearest neighbours", _neighbours(report)),
        ("Map of the embeddings", _map(report)),
        *((title, _text_table(header, rows)) for title, header, rows in report.tables),
        ("Figures", "".join(_figure(caption, png, "wide") for caption, png in report.figures)),
        ("Recipe", _recipe(report)),
        ("Environment", _environment(report)),
    ]
    alarm = collapse.note(report.metrics)
    warning = f'<p class="other"><strong>{_text(alarm)}</strong></p>\n' if alarm else ""
    body = "".join(f"<section>\n<h2>{title}</h2>\n{content}</section>\n" for title, content in sections if content)
    paragraphs = "".join(f"<p>{_text(part)}</p>\n" for part in report.description.split("\n\n") if part.strip())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(report.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(report.title)}</h1>\n{warning}{paragraphs}{body}</main>\n</body>\n</html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _label(name: str) -> str:
    return _text(LABELS.get(name, name.replace("_", " ")))


def _figure(caption: str, png: bytes, kind: str = "") -> str:
    text, data = _text(caption), base64.b64encode(png).decode()
    image = (
        f'<div class="{"scroll" if kind == "wide" else ""}"><img alt="{text}" src="data:image/png;base64,{data}"></div>'
    )
    return f'<figure class="{kind}"><figcaption>{text}</figcaption>{image}</figure>\n'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML; the first of each row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(row[1:])}</tr>\n' for row in rows)
    head = f"<thead><tr>{head}</tr></thead>\n" if header else ""
    return f'<div class="scroll"><table class="{kind}">{head}<tbody>{lines}</tbody></table></div>\n'


def _score(value: Any) -> float:
    value = value[0] if isinstance(value, tuple | list) else value
    return -math.inf if value is None or not math.isfinite(value) else float(value)


def _best(column: str, scores: Sequence[float]) -> float:
    known = [score for score in scores if score > -math.inf]
    return min(known, default=-math.inf) if column in LOWER_IS_BETTER else max(scores)


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[_text(first), *(f"<td>{_text(cell)}</td>" for cell in others)] for first, *others in rows]
    return _table(list(map(_text, header)), cells)


def _results(report: Report) -> str:
    columns = list(dict.fromkeys(column for row in report.results.values() for column in row))
    if not columns:
        return ""
    best = {column: _best(column, [_score(row.get(column)) for row in report.results.values()]) for column in columns}
    spread = False
    rows = []
    for name, row in report.results.items():
        cells = [_label(name)]
        for column in columns:
            value = row.get(column)
            shown = NO_FIGURE if _score(value) == -math.inf else f"{_score(value):.1f}"
            if isinstance(value, tuple | list) and shown != NO_FIGURE:
                spread, shown = True, f"{shown} ± {value[1]:.1f}"
            # as shown, so that equal figures are emphasised alike
            is_best = shown != NO_FIGURE and f"{_score(value):.1f}" == f"{best[column]:.1f}"
            cells.append(f'<td class="best">{shown}</td>' if is_best else f"<td>{shown}</td>")
        rows.append(cells)
    note = f"{_text(report.results_note)} The best of each column is bold."
    note += " ± is the standard deviation over draws of the labels." if spread else ""
    return _table(["", *map(_label, columns)], rows, "numbers") + f'<p class="note">{note}</p>\n'


def _series(metrics, name: str) -> tuple[list[float], list[float]] | None:
    rows = [(row["step"], row[name]) for row in metrics if name in row]
    if not any(value is not None and math.isfinite(value) for _, value in rows):
        return None
    finite = [value if value is not None and math.isfinite(value) else math.nan for _, value in rows]
    return [step for step, _ in rows], finite


def _curves(report: Report) -> str:
    charts = []
    for caption, names in {**report.charts, **SPEED}.items():
        drawn = {label: found for name, label in names.items() if (found := _series(report.metrics, name))}
        width = report.embedding_dim if "embedding_std" in names else None
        level = ("1/√D, spread over the sphere", width**-0.5) if width else None
        if drawn:
            charts.append(_figure(caption, plots.curves(drawn, reference=level)))
    return f'<div class="curves">\n{"".join(charts)}</div>\n' if charts else ""


def _samples(report: Report) -> str:
    if not report.samples or not min(map(len, report.samples.values())):
        return ""
    return _figure("Images and their random views, one image a column", plots.image_rows(report.samples), "wide")


def _neighbours(report: Report) -> str:
    if report.neighbours is None or not len(report.neighbours[0]):
        return ""
    png = plots.neighbours(*report.neighbours, report.class_names)
    caption = "Queries, left, and the images nearest to them"
    caption += "" if report.neighbours[2] is None else ": green frame, same class; red, another"
    return _figure(caption, png, "wide")


def _map(report: Report) -> str:
    if report.embeddings is None or len(report.embeddings[0]) < 4:
        return ""
    if not np.isfinite(report.embeddings[0]).all():
        return '<p class="note">Not drawn: there are NaN or infinite embeddings.</p>\n'
    png = plots.embedding_map(*report.embeddings, report.class_names)
    return _figure(f"t-SNE on cosine distances, coloured by {report.colours}", png, "wide")


def _recipe(report: Report) -> str:
    if not report.recipe:
        return ""
    has_paper = any(paper is not None for _, paper, _ in report.recipe)
    rows = []
    for name, paper, ours in report.recipe:
        kind = "other" if paper is not None and str(paper) != str(ours) else "same"
        cells = [f"<td>{'' if paper is None else _text(paper)}</td>"] if has_paper else []
        rows.append([_text(name), *cells, f'<td class="{kind}">{_text(ours)}</td>'])
    note = '<p class="note">Where ours differs from the paper it is coloured.</p>\n' if has_paper else ""
    return _table(["", "paper", "ours"] if has_paper else [], rows) + note


def _environment(report: Report) -> str:
    values = dict(report.environment)
    if "seconds" in values:
        minutes, seconds = divmod(round(values.pop("seconds")), 60)
        values["time"] = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
    return _table([], [[_label(name), f"<td>{_text(value)}</td>"] for name, value in values.items()]) if values else ""
