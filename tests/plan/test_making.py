"""Plans from canned answers: estimates by hand, the table, and what to change."""

import math

import pytest

from ssljax.plan import chips, estimate, table
from ssljax.types import BadInputError
from tests.plan import answers
from tests.plan.answers import MIB, Asked

V5E = chips.parse("v5e-16")


@pytest.mark.parametrize(
    ("passes", "hbm", "sent", "name", "seconds"),
    [
        (16 * 197e12, 819e9 / 2, 200e9 / 4, "compute", 1.0),
        (16 * 197e12, 2 * 819e9, 200e9, "memory", 2.0),
        (0.0, 0.0, 3 * 200e9, "network", 3.0),
    ],
)
def test_the_longest_is_the_bound(passes, hbm, sent, name, seconds):
    found = estimate.bound(V5E, passes, hbm, sent)
    assert found.name == name
    assert math.isclose(found.steps_per_second, 1 / seconds)


def test_hours_by_hand():
    found = estimate.times(V5E, answers.step(), 9000)
    # 4 GB over 200 GB/s take longer than 10 TFLOP on 16 x 197 and than 8.19 GB over 819 GB/s
    assert found["bound"] == "network"
    assert found["seconds_at_peak"] == {"compute": 10e12 / 16 / 197e12, "memory": 0.01, "network": 0.02}
    assert math.isclose(found["steps_per_second_at_bound"], 50)
    assert math.isclose(found["steps_per_second_realistic"], 50 * estimate.REALISTIC)
    assert math.isclose(found["hours"], 9000 / 50 / estimate.REALISTIC / 3600)
    assert math.isclose(found["chip_hours"], 16 * found["hours"])


def test_a_plan_has_every_stretch_and_their_sum():
    asked = Asked()
    plan = answers.plan(ask=asked)
    assert [(each["what"], each["stretch"], each["overrides"]) for each in asked.requests] == [
        ("step", 0, {}),
        ("step", 1, {}),
    ]
    assert [part["label"] for part in plan["stretches"]] == ["length 128", "length 512"]
    assert plan["stretches"][0]["bytes_used"] == 1024 * MIB
    assert "other" not in plan["stretches"][0]["bytes_per_chip"]
    assert plan["fits"]
    assert math.isclose(plan["hours"], 1_000_000 / 50 / estimate.REALISTIC / 3600)
    assert math.isclose(plan["chip_hours"], 16 * plan["hours"])


def test_the_table_says_what_is_estimated():
    lines = table.as_text(answers.plan()).splitlines()
    assert lines[0] == "bert_large --bfloat16 on v5e-16: 16 chips (4x4); the name counts chips"
    assert "Estimates: nothing here was run on a TPU" in lines[1]
    assert "length 128: 900,000 steps of 256" in lines
    assert "  fits: 1.00 GiB of 16.00 GiB a chip" in lines
    assert "    all-reduce                       3.73 GiB in 3" in lines
    for number in ("hours", "steps/s", "ms a step", "all-reduce", "traffic"):
        (first, *_) = [line for line in lines[2:] if number in line]
        assert number == "all-reduce" or "estimate" in first, number
    assert lines[-1].startswith("the whole recipe, estimated: ")


def test_what_does_not_fit_gets_advice_and_no_hours():
    asked = Asked(fits=lambda overrides: overrides.get("batch_sizes") in ([64, 256], [256, 64]))
    plan = answers.plan(ask=asked)
    assert not plan["fits"]
    assert "hours" not in plan
    first, second = (part["advice"] for part in plan["stretches"])
    assert [(each["change"], each["fits"]) for each in first] == [
        ("--shard-state", False),
        ("--remat", False),
        ("--batch-sizes 64 256", True),
    ]
    assert second[-1]["batch_size"] == 64
    lines = table.as_text(plan).splitlines()
    assert "  DOES NOT FIT: 20.00 GiB of 16.00 GiB a chip" in lines
    assert "    --batch-sizes 64 256         fits" in lines
    assert "    --shard-state                does not fit" in lines


def test_advice_stops_where_the_chips_no_longer_divide_the_batch():
    asked = Asked(fits=lambda overrides: False)
    plan = answers.plan("moco_v2_imagenet", "v5e-64", (), ask=asked)
    sizes = [each["overrides"]["batch_size"] for each in asked.requests if "batch_size" in each["overrides"]]
    assert sizes == [128, 64]
    assert plan["stretches"][0]["advice"][-1] == {
        "change": "--batch-size 64",
        "overrides": {"batch_size": 64},
        "fits": False,
        "batch_size": 64,
    }


def test_what_is_in_force_is_not_advised():
    asked = Asked(fits=lambda overrides: False)
    plan = answers.plan(options=("--remat", "--shard-state"), ask=asked)
    changes = [each["change"] for each in plan["stretches"][0]["advice"]]
    assert changes == ["--batch-sizes 16 256"]


def test_no_advice_where_none_is_wanted():
    asked = Asked(fits=lambda overrides: False)
    plan = answers.plan(ask=asked, advise=False)
    assert len(asked.requests) == 2
    assert all("advice" not in part for part in plan["stretches"])


def test_refusals_of_the_compiling_process_come_through():
    def refuse(request):
        raise BadInputError("batch_size=256 does not divide over 512 chips; use a multiple.")

    with pytest.raises(BadInputError, match="use a multiple"):
        answers.plan(ask=refuse)
