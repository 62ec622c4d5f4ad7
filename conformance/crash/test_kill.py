"""The short form of the campaign: each fail point once, and random times between."""

import contextlib
import os
import shutil

import pytest

import clients
import instances
from crash import spool_files
from crash.downstream import dimse
from crash.kill import FAIL_POINTS, Lost, Rig, series
from crash.sinks import DimseArchive, Sink
from pdu import Closed
from subject import RelayPacs
from waiting import wait_until

pytestmark = pytest.mark.relaypacs


@pytest.mark.item(40)
@pytest.mark.timeout(420)
def test_nothing_acknowledged_is_lost_whenever_the_node_is_killed():
    report = series(int(os.environ.get("CRASH_ROUNDS", "24")))
    print(report)
    assert set(report["at_fail_points"]) == set(FAIL_POINTS)
    assert report["acknowledged"] > 100


@pytest.mark.parametrize("point", ["route", "commitment_requested"])
def test_what_was_on_its_way_when_the_node_was_killed_arrives_and_is_verified(point):
    objects = [instances.instance() for _ in range(20)]
    with Sink(DimseArchive) as archive:
        # A report that was on its way to the killed node is asked for again soon.
        node = RelayPacs({"destinations": [dimse("pacs", archive.port, verify_deadline="5s")]}, database="sqlite")
        try:
            node.start(RELAYPACS_FAILPOINT=f"{point}@1")
            with contextlib.suppress(Closed, OSError, AssertionError):
                clients.store(node, objects)
            wait_until(node.died, "it is killed", 20)
            node.environment = {}
            node.start()
            held = node.held()
            assert held
            wait_until(lambda: node.destination("pacs")["verified"] == len(held), "all is verified", 60)
        finally:
            node.remove()


def test_what_a_crash_tore_and_nobody_was_answered_for_is_no_loss_later():
    torn, kept = instances.instance(pixel_bytes=60_000), instances.instance(pixel_bytes=60_000)
    node = RelayPacs({}, database="sqlite")
    try:
        node.start(RELAYPACS_FAILPOINT="record_appended@1")
        with contextlib.suppress(Closed, OSError, AssertionError):
            clients.store(node, [torn])
        wait_until(node.died, "it is killed", 20)
        end_is_missing(node)
        node.environment = {}
        node.start()
        clients.store_all(node, [kept])
        node.kill()
        # The log is replayed from its beginning, by marks that were written later.
        shutil.rmtree(node.queue_files()[0].parent)
        node.start()
        node.run("spool", "verify")
        assert node.held() == {kept.sop_instance: [kept.sha256]}
        assert "relaypacs_acked_object_missing 0" in node.metrics().splitlines()
    finally:
        node.remove()


def end_is_missing(node):
    """The second half of the last record never reached the disk."""
    record = spool_files.records(node.folder / "data" / "spool")[-1]
    with record.path.open("r+b") as file:
        begin, length = record.parts()["data set"]
        file.seek(begin + length // 2)
        file.write(bytes(length // 2))


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
