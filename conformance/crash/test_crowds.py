"""The short form of the campaign: the same crowds, smaller or for less long."""

import pytest

from crash import crowds
from subject import merged

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


def test_idle_associations_cost_little_and_slow_nobody():
    figures = crowds.idle(count=300, seconds=3, most=200)
    assert figures["bytes_each"] <= 64 << 10
    assert figures["echo_p99"] <= 0.05


@pytest.mark.parametrize(("config", "source"), [(crowds.RAISED, "127.0.0.1"), (crowds.AS_IT_COMES, crowds.ELSEWHERE)])
def test_a_good_sender_gets_everything_through_a_flood(config, source):
    figures = crowds.flooded(6, config, source)
    assert figures["stored"] > 20
    assert max(figures["store_p99"], figures["associate_p99"]) <= 1


def test_rejected_connections_leave_nothing_behind():
    assert crowds.rejects(cycles=6_000, settled=2_000, steps=2)["growth"] < 2 << 20


def test_slow_http_clients_are_ended_and_hold_nobody_up():
    figures = crowds.slow_http(count=200)
    assert figures["request_p99"] <= 1
    assert figures["headers_closed_by"] <= 10 and figures["bodies_closed_by"] <= 16


def test_a_good_sender_that_is_turned_away_is_noticed():
    with pytest.raises(AssertionError, match="not accepted"):
        crowds.flooded(4, merged(crowds.RAISED, {"limits": {"connections_per_second": 100}}), "127.0.0.1")


def test_slow_clients_that_are_not_ended_are_noticed():
    endless = merged(crowds.SLOW, {"limits": {"http_headers": "5min", "http_stall": "5min"}})
    with pytest.raises(AssertionError, match="never closed"):
        crowds.slow_http(count=10, config=endless, patience=3)


def test_figures_out_of_bounds_are_said_not_to_hold():
    flood = {"per_second": 500, "seconds": 60, "stored": 900, "store_p99": 0.01, "associate_p99": 0.01}
    good = {
        "idle associations": {
            "associations": 1000,
            "seconds": 600,
            "bytes_each": 60_000,
            "echoes": 900,
            "echo_p99": 0.01,
        },
        "a flood, limits raised": flood,
        "a flood from elsewhere, limits as they come": flood,
        "connect and reject": {"cycles": 100_000, "settled": 10_000, "resident": [1 << 20, 2 << 20], "growth": 1 << 20},
        "slow HTTP": {
            "clients": 500,
            "headers_closed_by": 5.1,
            "bodies_closed_by": 8.1,
            "requests": 400,
            "request_p99": 0.1,
        },
    }
    assert all(line.holds for line in crowds.lines(good))
    bad = {
        "idle associations": {"bytes_each": 66_000},
        "a flood, limits raised": {"store_p99": 1.1},
        "a flood from elsewhere, limits as they come": {"per_second": 300},
        "connect and reject": {"growth": 3 << 20},
        "slow HTTP": {"bodies_closed_by": 40},
    }
    for case, breach in bad.items():
        broken = good | {case: good[case] | breach}
        assert sum(not line.holds for line in crowds.lines(broken)) == 1, case
