"""The curves of bytes and batches, against arithmetic by hand."""

import math

import pytest

from ssljax.plan import chips, scaling

V5E = chips.CHIPS["v5e"]
# gradients of 800 MB, and 100 kB gathered of each row
GROWTH = {"all-reduce": scaling.Growth(8e8, 0.0), "all-gather": scaling.Growth(0.0, 1e5)}


def compiled(count, rows=32, skew=1.0):
    payload = {"all-reduce": 8e8, "all-gather": 1e5 * count * rows * skew}
    return scaling.Point(count, rows, payload, passes=2e10 * count * rows)


def test_two_programs_say_what_is_fixed_and_what_grows():
    found = scaling.fit(compiled(8), compiled(16))
    assert found.keys() == GROWTH.keys()
    for kind, growth in GROWTH.items():
        assert found[kind] == pytest.approx(growth)


def test_a_kind_that_only_one_program_has_counts_as_nothing_in_the_other():
    found = scaling.fit(compiled(8), compiled(16)._replace(payload={"reduce-scatter": 512.0}))
    assert found["reduce-scatter"] == pytest.approx(scaling.Growth(-512.0, 2.0))


def test_an_exchange_grows_with_the_rows_of_a_chip_and_not_with_the_chips():
    first, second = (compiled(count)._replace(payload={"all-to-all": 32 * 3e5}) for count in (64, 256))
    found = scaling.fit(first, second)
    assert found == {"all-to-all": pytest.approx(scaling.Growth(0.0, 0.0, 3e5))}
    assert math.isclose(scaling.bytes_sent(found, 1024, 16), 1023 / 1024 * 16 * 3e5)
    assert scaling.disagreement(found, [first, second]) < 1e-12
    # 0.1 ms of computing for 1.5 us of the network
    assert scaling.least_rows(found, 2e10, V5E, 1024) == 0


@pytest.mark.parametrize("count", [8, 64, 1024])
def test_rings(count):
    by_hand = (count - 1) / count * (2 * 8e8 + 1e5 * 32 * count)
    assert math.isclose(scaling.bytes_sent(GROWTH, count, 32), by_hand)
    assert math.isclose(compiled(count).sent, by_hand)


def test_disagreement_is_relative_to_what_was_compiled():
    assert scaling.disagreement(GROWTH, [compiled(8), compiled(64)]) < 1e-12
    off = compiled(64, skew=1.1)
    by_hand = 1 - (2 * 8e8 + 1e5 * 32 * 64) / (2 * 8e8 + 1.1e5 * 32 * 64)
    assert math.isclose(scaling.disagreement(GROWTH, [compiled(8), off]), by_hand)


def test_at_the_least_batch_the_network_takes_as_long_as_computing():
    rows = scaling.least_rows(GROWTH, 2e10, V5E, 16)
    network = scaling.bytes_sent(GROWTH, 16, rows) / V5E.ici_bandwidth
    assert math.isclose(network, rows * 2e10 / V5E.flops)


def test_where_each_row_costs_the_network_more_than_the_chip_no_batch_is_enough():
    # 2e10 operations take 0.1 ms; 100 kB of each of the other chips' rows take 0.5 us a chip
    assert math.isfinite(scaling.least_rows(GROWTH, 2e10, V5E, 128))
    assert math.isinf(scaling.least_rows(GROWTH, 2e10, V5E, 256))


def test_without_collectives_any_batch_will_do():
    assert scaling.least_rows({}, 2e10, V5E, 8) == 0
