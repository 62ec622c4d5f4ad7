"""The short form of the campaign: some cuts, and each sync without which they must show a loss."""

import pytest

from crash import cut

pytestmark = [pytest.mark.relaypacs, pytest.mark.root]


@pytest.mark.item(40)
def test_nothing_acknowledged_is_lost_when_the_power_is_cut():
    report = cut.series(["large_synced", "segment_begun", None, "queue_flushed"])
    print(report)
    assert report["acknowledged"] > 100


@pytest.mark.parametrize("left_out", cut.CAUGHT)
def test_a_cut_shows_what_a_missing_sync_loses(left_out):
    assert cut.mutant(left_out, most=8)["caught_after"]
