import html.parser
import io

import numpy as np
import pytest
from PIL import Image

from ssljax.train.report import matrix_plots, plots
from ssljax.train.report import page as report


def png_size(png):
    with Image.open(io.BytesIO(png)) as image:
        return image.size


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def has_colour(png, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels(png).astype(int) - wanted[None, None]).max(-1) <= 2).any())


class Page(html.parser.HTMLParser):
    """Checks that tags close in order and gathers headings, cells and outside addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.cells, self.outside, self.classes = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        values = dict(attrs)
        self.outside += [v for k, v in attrs if k in ("src", "href") and not str(v).startswith("data:image/png;")]
        if tag in ("td", "th"):
            self.cells.append("")
            self.classes.append(values.get("class"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def full_report():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(6) % 3
    views = {"image": images, "view_1": random.random((6, 5, 5, 3)), "view_2": random.random((6, 5, 5, 3))}
    found = np.stack([images[::-1]] * 6)[:, :4]
    metrics = [{"step": step, "loss": 1 / step, "pretext_top1": 1.0, "pretext_top5": 2.0} for step in (1, 2, 3)]
    metrics[1] |= {"loss": None, "lr": 0.1, "embedding_std": 0.1, "rankme": 3.0, "knn": 40.0}
    metrics[2] |= {"input_wait": 0.01, "host_gap_ms": 0.2}
    return report.Report(
        title="A <b>title</b> & more",
        description="One.\n\n<script>alert(1)</script>",
        recipe=[("lr <x>", 0.03, 0.06), ("T", 0.2, 0.2), ("groups", None, 8)],
        metrics=[*metrics, {"step": 4, "alignment": 0.2, "uniformity": -2.0}],
        results={
            "pixels": {"knn": 50.04, "linear": None, "linear_10_per_class": (30.0, 2.0)},
            "moco": {"knn": 70.0, "linear": 80.26, "linear_10_per_class": (60.0, 1.25)},
            "other": {"knn": 70.04, "linear": float("nan")},
        },
        samples=views,
        neighbours=(images, found, labels, np.stack([labels[::-1]] * 6)[:, :4]),
        embeddings=(random.normal(size=(12, 5)), np.arange(12) % 3),
        class_names=["a<", "b", "c"],
        figures=[("extra & <i>", plots.curves({"x": ([1], [1.0])}))],
        environment={"device": "<cpu>", "seconds": 3725.0},
        embedding_dim=128,
    )


def test_the_whole_page(tmp_path):
    path = tmp_path / "made" / "report.html"
    report.write_report(path, full_report())
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == [
        "Results",
        "Training",
        "What the network sees",
        "Nearest neighbours",
        "Map of the embeddings",
        "Figures",
        "Recipe",
        "Environment",
    ]
    assert page.outside == []
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("<img ") == 7 + 2 + 4
    assert "Waiting for data" in text
    assert "<script" not in text
    assert "<h1>A &lt;b&gt;title&lt;/b&gt; &amp; more</h1>" in text
    assert "lr &lt;x&gt;" in text
    assert "1 h 2 min" in text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_results_are_rounded_and_the_best_of_a_column_is_bold():
    page = Page(report.render(report.Report(title="t", results=full_report().results)))
    assert page.headings == ["Results"]
    dash = report.NO_FIGURE
    assert page.cells == [
        *("", "kNN", "linear", "linear, 10 per class"),
        *("pixels", "50.0", dash, "30.0 ± 2.0"),
        *("MoCo", "70.0", "80.3", "60.0 ± 1.2"),
        *("other", "70.0", dash, dash),
    ]
    bold = [i for i, kind in enumerate(page.classes) if kind == "best"]
    assert bold == [9, 10, 11, 13]


def test_the_recipe_marks_what_differs_from_the_paper():
    page = Page(report.render(report.Report(title="t", recipe=full_report().recipe)))
    assert page.cells == ["", "paper", "ours", "lr <x>", "0.03", "0.06", "T", "0.2", "0.2", "groups", "", "8"]
    assert [i for i, kind in enumerate(page.classes) if kind == "other"] == [5]


@pytest.mark.parametrize(
    "empty",
    [
        {},
        {"metrics": [{"step": 1, "loss": None}], "results": {"moco": {}}, "samples": {"image": np.zeros((0, 2, 2, 3))}},
        {"embeddings": (np.zeros((3, 2)), np.zeros(3))},
    ],
)
def test_sections_without_data_are_left_out(empty):
    assert Page(report.render(report.Report(title="t", **empty))).headings == []


def test_a_diverged_run_and_a_collapsed_one_still_get_their_page():
    labels = np.arange(8) % 2
    diverged = report.render(report.Report(title="t", embeddings=(np.full((8, 3), np.nan), labels)))
    assert "Not drawn" in diverged
    assert "<img " in report.render(report.Report(title="t", embeddings=(np.ones((8, 3)), labels)))


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(report.os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        report.write_report(path, report.Report(title="t"))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_neighbours_are_framed_by_label():
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])
    found = np.zeros((2, 3, 4, 4, 1), np.uint8)
    same, other = np.repeat(labels[:, None], 3, 1), np.repeat(1 - labels[:, None], 3, 1)
    all_right = plots.neighbours(images, found, labels, same)
    all_wrong = plots.neighbours(images, found, labels, other)
    assert has_colour(all_right, plots.RIGHT)
    assert not has_colour(all_right, plots.WRONG)
    assert has_colour(all_wrong, plots.WRONG)
    assert not has_colour(all_wrong, plots.RIGHT)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_pictures_of_other_channels_are_shown_by_their_first(channels):
    random, labels = np.random.default_rng(0), np.zeros(2, int)
    images = random.integers(0, 256, (2, 4, 4, channels), dtype=np.uint8)
    shown = images[..., :3] if channels > 3 else images[..., :1]
    for make in (
        lambda x: plots.image_rows({"image": x, "view_1": x.astype(np.float32) / 255}),
        lambda x: plots.neighbours(x, x[:, None], labels, labels[:, None]),
    ):
        np.testing.assert_array_equal(pixels(make(images)), pixels(make(shown)))
        assert (pixels(make(images)) != pixels(make(shown[::-1]))).any()


def test_similarity_matrix_is_ordered_by_kind():
    labels = np.tile([0, 1], 4)
    after = np.eye(2)[labels]
    shuffled = np.random.default_rng(0).permutation(8)
    before = np.ones((8, 3))
    one = pixels(matrix_plots.similarity_matrix(before, after, labels))
    two = pixels(matrix_plots.similarity_matrix(before, after[shuffled], labels[shuffled]))
    np.testing.assert_array_equal(one, two)
    assert (one != pixels(matrix_plots.similarity_matrix(before, before, labels))).any()


def test_pictures_repeat_and_leave_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    random = np.random.default_rng(0)
    embeddings, labels = random.normal(size=(30, 4)), np.arange(30) % 12
    first = plots.embedding_map(embeddings, labels)
    np.testing.assert_array_equal(pixels(first), pixels(plots.embedding_map(embeddings, labels)))
    assert dict(matplotlib.rcParams) == before
    assert min(png_size(first)) > 500


def test_smoothing_is_the_mean_of_the_window_and_skips_gaps():
    values = np.array([1.0, 2.0, np.nan, 4.0, 9.0])
    np.testing.assert_allclose(plots._smooth(values, 1), [1.5, 1.5, np.nan, 6.5, 6.5])
    long = np.r_[np.nan, np.random.default_rng(0).normal(size=300)]
    assert png_size(plots.curves({"a": (np.arange(301), long)}, reference=("level", 0.5)))[0] > 500


def test_the_reference_of_the_deviation_is_drawn_where_the_dimension_is_known():
    metrics = [{"step": step, "embedding_std": 0.01 * step} for step in (1, 2)]
    plain, with_level = (
        report.render(report.Report(title="t", metrics=metrics, embedding_dim=dim)) for dim in (None, 16)
    )
    assert plain.count("<img ") == with_level.count("<img ") == 1
    assert plain != with_level


def test_a_collapse_stands_on_top_and_further_ranks_are_drawn():
    rows = [{"step": step, "alpha_req": float("inf") if step == 3 else 0.5, "lidar": 4.0} for step in (1, 2, 3)]
    page = report.render(report.Report(title="t", description="One.", metrics=rows))
    assert "collapsed" not in page
    assert "(LiDAR)" in page
    assert "(alpha-ReQ)" in page
    page = report.render(
        report.Report(title="t", description="One.", metrics=[*rows, {"step": 4, "collapsed": "std <"}])
    )
    assert page.index("</h1>") < page.index("collapsed during this run: std &lt;.") < page.index("One.")
