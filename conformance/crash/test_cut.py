"""The short form of the campaign: some cuts, and each sync without which they must show a loss."""

import os
import re
import shutil

import pytest

from crash import cut, order, power
from crash.kill import Lost
from crash.replay import replay
from subject import CHECKOUT

pytestmark = pytest.mark.relaypacs


def mounts(test):
    return pytest.mark.root(pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")(test))


def needs(tool):
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def test_each_sync_of_the_node_is_left_out_somewhere_or_it_is_said_why_not():
    known = {*cut.CAUGHT, *cut.HARMLESS, *cut.UNTRIED}
    sources = "".join(file.read_text() for file in (CHECKOUT / "src").rglob("*.rs"))
    assert set(re.findall(r'failpoint::sync\(\s*"(\w+)"', sources)) <= known
    assert [name for name in known if f'"{name}"' not in sources] == []


def test_each_fail_point_of_the_node_is_where_some_suite_ends_it():
    sources = "".join(file.read_text() for file in (CHECKOUT / "src").rglob("*.rs"))
    suites = "".join(file.read_text() for file in (CHECKOUT / "conformance").glob("[a-z]*/*.py"))
    points = set(re.findall(r'failpoint::pass\(\s*"(\w+)"', sources))
    assert [name for name in sorted(points) if f'"{name}' not in suites] == []


@mounts
@pytest.mark.item(40)
def test_nothing_acknowledged_is_lost_when_the_power_is_cut():
    report = cut.series(["large_synced", "segment_begun", None, "queue_flushed"])
    print(report)
    assert report["acknowledged"] > 100


@mounts
@pytest.mark.parametrize("size", [2_000, 100_000], ids=["in-the-log", "in-a-file"])
def test_a_resend_after_a_crash_is_acknowledged_only_once_it_is_on_the_disk(size):
    assert power.keeps_a_resend(size)


@mounts
def test_what_follows_a_segments_head_that_never_reached_the_disk_is_held():
    assert power.goes_on_past_a_lost_head()


@mounts
@pytest.mark.parametrize("left_out", cut.CAUGHT)
def test_a_cut_shows_what_a_missing_sync_loses(left_out):
    assert cut.mutant(left_out)["caught_in"]


@mounts
@needs("qemu-storage-daemon")
def test_what_was_acknowledged_is_on_every_disk_that_the_log_of_writes_gives():
    assert replay(12, seconds=3)["acknowledged"] > 100


@mounts
@needs("qemu-storage-daemon")
def test_the_log_of_writes_shows_what_a_missing_sync_loses():
    with pytest.raises(Lost):
        replay(20, "log", seconds=2)


@needs("strace")
def test_no_answer_leaves_before_the_syncs_that_cover_it():
    found, objects = order.trace()
    assert order.too_early(found, objects) == []
    files = {call.path for call in found if "/segments/" in call.path or "/large/" in call.path}
    assert len(files) > 10, "both roads were taken, and more than one segment"


@needs("strace")
@pytest.mark.parametrize("left_out", ["log", "large", "large_directory"])
def test_the_trace_shows_an_answer_that_leaves_too_early(left_out):
    assert order.too_early(*order.trace({"RELAYPACS_LEAVE_OUT": left_out}))
