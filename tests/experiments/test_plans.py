"""The plans of the large recipes and their scaling, from canned answers."""

import json

import jax
import pytest

from experiments import plans, plans_scaling
from ssljax.plan import chips, recipes, scaling
from ssljax.types import BadInputError
from tests.plan.answers import Asked


@pytest.fixture
def out(tmp_path):
    return tmp_path / "plans.json"


def run(out, ask, **options):
    plans.run(plans.Config(out=str(out), **options), ask)
    return plans.read(out)


def test_every_recipe_on_pictures_of_imagenet_and_on_text_is_planned():
    large = {name for name in recipes._names() if "imagenet" in name or name.startswith("bert")} - {"bert_demo"}
    assert {each.name for each in plans.RECIPES} == large


@pytest.mark.parametrize("each", plans.RECIPES, ids=lambda each: each.name)
def test_batches_divide_over_the_chips(each):
    recipe = recipes.read(each.name, each.options)
    assert all(stretch.batch_size % each.chips == 0 for stretch in recipe.stretches)
    assert {chips.slices(kind, each.chips).chips for kind in chips.CHIPS} == {each.chips}


def test_plans_are_kept_in_order_and_not_made_twice(out):
    ask = Asked()
    rows = run(out, ask, only=("bert_base",), chips=("v5e", "v4"))
    assert [(row["experiment"], row["topology"]) for row in rows] == [("bert_base", "v4-32"), ("bert_base", "v5e-16")]
    assert rows[0]["operations_of_views"] == {"gather": 0, "while": 2}
    asked = len(ask.requests)
    assert asked == 2 * 3  # two stretches and the views
    rows = run(out, ask, only=("bert_base", "moco_v1_imagenet"), chips=("v5e",))
    assert [row["experiment"] for row in rows] == ["moco_v1_imagenet", "bert_base", "bert_base"]
    assert len(ask.requests) == asked + 2
    run(out, ask, only=("bert_base",), chips=("v5e",), again=True)
    assert len(ask.requests) == asked + 5
    assert len(plans.read(out)) == 3


def test_other_versions_plan_anew(out, monkeypatch):
    run(out, Asked(), only=("bert_base",), chips=("v5e",))
    monkeypatch.setattr(plans.making, "versions", lambda: {"jax": "9", "libtpu": "9"})
    (row,) = run(out, Asked(), only=("bert_base",), chips=("v5e",))
    assert row["versions"] == {"jax": "9", "libtpu": "9"}


def test_a_plan_made_with_less_optimisation_says_so(out):
    usual = jax.config.jax_optimization_level  # type: ignore[attr-defined]
    jax.config.update("jax_optimization_level", "O1")
    try:
        (row,) = run(out, Asked(), only=("bert_wiki_small",), chips=("v5e",))
    finally:
        jax.config.update("jax_optimization_level", usual)
    assert row["versions"]["optimization_level"] == "O1"
    assert plans.as_markdown(out).endswith(" s, at O1 |")
    (row,) = run(out, Asked(), only=("bert_wiki_small",), chips=("v5e",))
    assert "optimization_level" not in row["versions"]
    assert plans.as_markdown(out).endswith(" s |")


def test_a_plan_that_added_up_all_temporaries_says_so_and_is_made_anew(out):
    (row,) = run(out, Asked(), only=("bert_wiki_small",), chips=("v5e",))
    assert "~" not in plans.as_markdown(out)
    out.write_text(json.dumps([{name: value for name, value in row.items() if name != "temporaries"}]))
    assert "| v5e-4 | ~ " in plans.as_markdown(out)
    run(out, Asked(), only=("bert_wiki_small",), chips=("v5e",))
    assert "~" not in plans.as_markdown(out)


def test_one_that_fails_leaves_a_row_and_is_tried_again(out):
    def fail(request):
        if request["topology"].startswith("v4"):
            raise BadInputError("the compilation failed: out of luck.")
        return Asked()(request)

    rows = run(out, fail, only=("moco_v2_imagenet",))
    assert [row["topology"] for row in rows if "failed" in row] == ["v4-16"]
    assert len(rows) == 4
    table = plans.as_markdown(out).splitlines()
    assert table[2] == "| `moco_v2_imagenet` | v4-16 | the compilation failed: out of luck. | | | | | |"
    assert all("failed" not in row for row in run(out, Asked(), only=("moco_v2_imagenet",)))


def test_the_table(out):
    run(out, Asked(), only=("bert_large",), chips=("v5e",))
    run(out, Asked(fits=lambda overrides: False), only=("bert_base",), chips=("v5e",))
    _, _, base, large = plans.as_markdown(out).splitlines()
    assert base.startswith(
        "| `bert_base --bfloat16 --scan` | v5e-16 | 20.00 GiB does not fit / 20.00 GiB does not fit |"
    )
    assert large == (
        "| `bert_large --bfloat16 --scan --remat` | v5e-16 | 1.00 GiB / 1.00 GiB | 3.73 GiB / 3.73 GiB "
        "| network / network | 50, 20 / 50, 20 | 13.9, 222 | 18 s / 18 s |"
    )
    assert all(line.count("|") == base.count("|") for line in plans.as_markdown(out).splitlines())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ("bert",)}, "unknown recipe 'bert'"),
        ({"chips": ("v5e", "v7")}, "unknown chip 'v7'; use one of v4, v5e"),
    ],
)
def test_unknown_names_are_refused(options, words, out):
    with pytest.raises(BadInputError, match=words):
        run(out, Asked(), **options)
    with pytest.raises(BadInputError, match="no such"):
        plans_scaling.run(plans_scaling.Config(only=("no such",), out=str(out)), Asked())


def test_scaling_writes_figures_and_a_plot(tmp_path):
    out = tmp_path / "scaling.json"
    plans_scaling.run(plans_scaling.Config(out=str(out)), Asked())
    found = json.loads(out.read_text())
    assert list(found) == list(plans_scaling.RECIPES) == ["moco_v2_imagenet", "moco_v3_imagenet", "bert_large"]
    for name, each in found.items():
        exchanges = name == "moco_v2_imagenet"  # from 16 chips on, where its curve starts
        assert [point["chips"] for point in each["compiled"]] == ([16, 64, 256] if exchanges else [8, 16, 64])
        sizes = ["8", "16", "32", "64", "128", "256", "512", "1024"]
        assert list(each["bytes_sent_per_chip"]) == sizes[exchanges:]
        assert each["greatest_difference_from_compiled"] < 1e-6
        assert each["growth"]["all-reduce"] == {"fixed": 800.0, "per_row": 0.0, "per_own_row": 0.0}
        assert max(map(int, each["least_global_batch"]["v5e"])) == 256
        assert max(map(int, each["least_global_batch"]["v4"])) == 1024
    picture = tmp_path / "scaling.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000


def test_steps_with_other_kinds_of_collectives_check_the_curve_and_do_not_make_it():
    gathers = {"all-to-all": 3200.0, "all-reduce": 1e6, "all-gather": 32 * 16 * 5.0}
    adds = [{"all-to-all": 3200.0, "all-reduce": 1e6 + 32 * count * 5.0} for count in (64, 256)]
    points = [scaling.Point(count, 32, sent, 1e9) for count, sent in zip((16, 64, 256), (gathers, *adds), strict=True)]
    found = plans_scaling.figures(points)
    assert found["growth"] == {
        "all-reduce": pytest.approx({"fixed": 1e6, "per_row": 5.0, "per_own_row": 0.0}),
        "all-to-all": pytest.approx({"fixed": 0.0, "per_row": 0.0, "per_own_row": 100.0}),
    }
    # the keys of 16 chips, once more
    assert found["greatest_difference_from_compiled"] == pytest.approx(15 / 16 * 32 * 16 * 5 / points[0].sent)


def test_what_does_not_fit_has_no_scaling(tmp_path):
    with pytest.raises(BadInputError, match="does not fit on v5e-16"):
        plans_scaling.run(plans_scaling.Config(out=str(tmp_path / "s.json")), Asked(fits=lambda overrides: False))
