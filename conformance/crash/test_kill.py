"""The short form of the rig: each fail point once, and random times between. `python -m crash` is the long one."""

import os

import pytest

from crash.rig import FAIL_POINTS, run

pytestmark = pytest.mark.relaypacs


@pytest.mark.item(40)
@pytest.mark.timeout(420)
def test_nothing_acknowledged_is_lost_whenever_the_node_is_killed():
    rounds = int(os.environ.get("CRASH_ROUNDS", "16"))
    report = run(rounds, tell=print)
    print(report)
    assert set(report["at_fail_points"]) == set(FAIL_POINTS)
    assert report["lost"] == 0 and report["acknowledged"] > 100
