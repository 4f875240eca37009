"""The rule of the collapse alarm, on rows of metrics alone."""

import random

import pytest

from ssljax.train import collapse

# the first rows of a run of `experiments.demo` (MoCo), every 5 steps: it begins near a collapse
DEMO = [0.054, 0.034, 0.026, 0.027, 0.035, 0.054, 0.078, 0.091, 0.092, 0.092, 0.091, 0.086, 0.084, 0.087, 0.086, 0.083]


def rows_of(values, every=5, name="embedding_std"):
    return [{"step": every * (i + 1), "loss": 1.0, name: value} for i, value in enumerate(values)]


def alarms(rows, **options):
    watch = collapse.Watch((), **options)
    return [alarm for row in rows if (alarm := watch.look(row)) is not None]


@pytest.mark.parametrize("total", [100, 186, 10**6])
def test_an_ordinary_start_is_no_collapse(total):
    assert alarms(rows_of(DEMO), total_steps=total, width=lambda: 128) == []


def test_a_fall_to_a_tenth_that_lasts_is_one_at_the_fifth_row_and_after_a_hundred_steps():
    fallen = [*DEMO, *[0.009] * 30]
    (alarm,) = alarms(rows_of(fallen))
    assert (alarm.figure, alarm.since, alarm.step) == ("embedding_std", 85, 185)
    (slow,) = alarms(rows_of(fallen, every=50))
    assert (slow.since, slow.step) == (850, 1050)
    assert alarms(rows_of([*DEMO, *[0.0095] * 30])) == []
    assert alarms(rows_of([*DEMO, *[0.009] * 20, 0.02, *[0.009] * 20])) == []


def test_a_run_that_never_was_spread_is_one_only_after_its_start():
    low = rows_of([0.003] * 60, every=50)
    (alarm,) = alarms(low, total_steps=10_000, width=lambda: 128)
    assert (alarm.since, alarm.step) == (1050, 1250)
    (early,) = alarms(low, total_steps=500, width=lambda: 128)
    assert (early.since, early.step) == (150, 350)
    # the same figure is 0.13 of what is possible in 2,048 dimensions, and unknown where D is
    assert alarms(low, total_steps=10_000, width=lambda: 2048) == []
    assert alarms(low, total_steps=10_000) == []
    assert alarms(rows_of([0.0009] * 60, every=50), total_steps=10_000)


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("width", [8, 128, 8192])
def test_noise_around_a_spread_representation_is_none(share, width):
    draw = random.Random(width)
    spread = [share * width**-0.5 * draw.uniform(0.5, 1.0) for _ in range(300)]
    assert alarms(rows_of(spread, every=50), width=lambda: width) == []


def test_the_rank_counts_in_two_evaluations_and_the_entropy_in_five_rows():
    ranks = rows_of([11.2, 22.8, 1.3, 1.2, 1.2], every=500, name="rankme")
    (alarm,) = alarms(ranks)
    assert (alarm.since, alarm.step) == (1500, 2000)
    assert alarms(ranks[:3]) == []
    entropy = rows_of([6.9, 6.8, *[0.3] * 10], every=50, name="entropy")
    assert [(alarm.since, alarm.step) for alarm in alarms(entropy)] == [(150, 350)]


def test_rows_of_text_and_figures_that_are_not_finite_do_not_count():
    text = [{"step": 10 * i, "loss": 0.0, "mlm_accuracy": 0.0, "collapsed": None} for i in range(100)]
    assert alarms(text) == []
    assert alarms(rows_of([None, float("nan"), float("inf")] * 40)) == []


def test_it_is_said_once_ends_with_a_higher_value_and_comes_again():
    watch = collapse.Watch()
    said = [watch.look(row) for row in rows_of([0.09, *[0.001] * 60])]
    assert sum(alarm is not None for alarm in said) == 1
    assert watch.alarm is not None
    assert watch.is_low
    watch.look({"step": 400, "embedding_std": 0.09})
    assert watch.alarm is None
    assert not watch.is_low
    again = [watch.look({"step": 400 + 50 * i, "embedding_std": 0.001}) for i in range(1, 9)]
    assert [alarm.since for alarm in again if alarm] == [450]


def test_a_resumed_run_knows_from_the_rows_what_it_knew_and_going_back_forgets():
    rows = rows_of([*DEMO, *[0.001] * 40])
    whole = collapse.Watch(rows)
    for cut in range(0, len(rows), 7):
        parts = collapse.Watch(rows[:cut])
        for row in rows[cut:]:
            parts.look(row)
        assert parts.seen == whole.seen
    assert whole.alarm is not None
    whole.forget(after=80)
    assert whole.alarm is None
    assert whole.seen == collapse.Watch(rows[:16]).seen


def test_the_sentences_name_figure_level_steps_and_causes():
    (alarm,) = alarms(rows_of([*DEMO, *[0.001] * 40]))
    for text in (alarm.sentence(), collapse.note([{"step": 1}, {"step": 185, "collapsed": alarm.reason()}])):
        assert "(embedding_std) has been below 0.0092 since step 85 and is 0.001 at step 185" in text
        assert "learning rate that is too high" in text
    assert collapse.note([{"step": 1, "collapsed": None}]) == ""
    assert "the first of 2 times" in collapse.note([{"step": 1, "collapsed": "a"}, {"step": 2, "collapsed": "b"}])
