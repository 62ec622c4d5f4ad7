"""The short form of the campaign: each fail point once, and random times between."""

import os

import pytest

from crash.kill import FAIL_POINTS, Lost, Rig, series

pytestmark = pytest.mark.relaypacs


@pytest.mark.item(40)
@pytest.mark.timeout(420)
def test_nothing_acknowledged_is_lost_whenever_the_node_is_killed():
    report = series(int(os.environ.get("CRASH_ROUNDS", "24")))
    print(report)
    assert set(report["at_fail_points"]) == set(FAIL_POINTS)
    assert report["acknowledged"] > 100


def test_the_rig_notices_a_loss_and_a_change():
    rig = Rig(senders=0)
    try:
        rig.offered = {"1.2.1": "aa", "1.2.2": "bb", "1.2.3": "cc"}
        pen = rig.ledger.pen("test")
        pen.write("1.2.1", "aa")
        pen.write("1.2.2", "bb")
        pen.close()
        rig.compare({"1.2.1": ["aa"], "1.2.2": ["bb"], "1.2.3": ["cc"], "1.2.9": ["dd"]})
        for held in (
            {"1.2.1": ["aa"]},
            {"1.2.1": ["aa"], "1.2.2": ["changed"]},
            {"1.2.1": ["aa"], "1.2.2": ["bb"], "1.2.3": ["torn, though never acknowledged"]},
            {"1.2.1": ["aa", "aa"], "1.2.2": ["bb"]},
        ):
            with pytest.raises(Lost):
                rig.compare(held)
    finally:
        rig.close()
