"""Disks that are full or fail, a database that is away: what is still promised, and what is no longer."""

import os
import shutil
import subprocess

import pytest
import requests

import clients
import instances
import postgres
from crash.disk import Disk
from gateway.support import files_of
from pdu import Closed
from subject import binary
from waiting import wait_until

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(120)]


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk of 64 MiB, real ext4."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    made = []

    def make(*options):
        try:
            made.append(Disk.made(tmp_path, 64, *options))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no loop mount here: {error.stderr}")
        return made[-1]

    try:
        yield make
    finally:
        for disk in made:
            disk.remove()


def fill(association, size, most=2000):
    """Stores until it is refused; (acknowledged, the status that refused)."""
    taken = []
    for _ in range(most):
        one = instances.instance(pixel_bytes=size)
        reply = association.store(1, one.sop_class, one.sop_instance, one.data_set)
        if reply.status != 0:
            return taken, reply.status
        taken.append(one)
    return taken, 0


# How the disk is made, and the size of the objects. The first is tried several times: which write it is that finds no
# room depends on the moment.
FULL = {
    "in-the-log": ([], 200_000),
    "in-the-log-again": ([], 150_000),
    "in-the-log-once-more": ([], 90_000),
    "in-files": ([], 1_500_000),
    "no-inodes": (["-N", "64"], 300_000),
}


@pytest.mark.root
@pytest.mark.item(41)
@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_a700_and_503_and_the_association_lives(make_subject, small_disk, name):
    """Nothing acknowledged is lost, and the node takes objects again by itself when there is room."""
    options, size = FULL[name]
    mount = small_disk(*options).path
    ballast = [mount / f"ballast-{number}" for number in range(8)]
    for file in ballast:
        file.write_bytes(bytes(2 << 20))
    inline = "256 KiB" if name == "no-inodes" else "1 MiB"
    node = make_subject({"spool": {"dir": str(mount / "spool"), "segment_size": "4 MiB", "inline_limit": inline}})
    one = instances.instance(pixel_bytes=size)
    association, _ = clients.associate(node, [one])
    taken, status = fill(association, size)
    assert status == 0xA700 and taken
    again = association.store(1, one.sop_class, one.sop_instance, one.data_set)
    assert again.status == 0xA700, "the association lives"
    response = clients.stow(node, [one])
    assert response.status_code == 503 and "Retry-After" in response.headers
    ready = requests.get(f"http://127.0.0.1:{node.http_port}/health/ready", timeout=10)
    assert ready.json()["status"] != "up", "it can take nothing, and readiness does not say so"
    held = node.held()
    assert all(held.get(each.sop_instance) == [each.sha256] for each in taken)
    assert one.sop_instance not in held
    for file in ballast:
        file.unlink()
    wait_until(
        lambda: association.store(1, one.sop_class, one.sop_instance, one.data_set).status == 0, "it takes objects", 30
    )
    association.release()
    assert clients.echo(node) == 0 and node.process.poll() is None
    assert node.held()[one.sop_instance] == [one.sha256]


@pytest.mark.item(41)
def test_a_disk_over_the_critical_watermark_is_a700(make_subject):
    node = make_subject({"spool": {"high_watermark": 0.0001, "critical_watermark": 0.0002}}, start=False)
    node.start(ready=False)
    wait_until(lambda: can_echo(node), "it listens", 20)
    one = instances.instance()
    try:
        replies = clients.store(node, [one, one])
        assert [reply.status for reply in replies] == [0xA700, 0xA700]
    except AssertionError as refused:
        assert "PDU 0x3 00020301" in str(refused), "else rejected for now (2/3/1)"


@pytest.mark.item(41)
def test_who_sends_in_bulk_waits_first_when_room_is_short(make_subject):
    """From the high watermark on: rejected for now (2/3/1), while others are served."""
    peers = [{"ae_title": "BULK", "bulk": True}, {"ae_title": "CT_1"}]
    node = make_subject({"spool": {"high_watermark": 0.0001, "critical_watermark": 0.9999}, "dicom": {"peers": peers}})
    one = instances.instance()
    with pytest.raises(AssertionError, match="00020301"):
        clients.store(node, [one], calling="BULK")
    assert [reply.status for reply in clients.store(node, [one], calling="CT_1")] == [0]
    assert clients.echo(node) == 0


def can_echo(node):
    try:
        return clients.echo(node) == 0
    except (OSError, AssertionError, Closed):
        return False


def spawn_with_failing(node, call, first, file=None):
    """Starts the node; from the first-th call on, every such call (on `file` only) fails with EIO."""
    serve = [str(binary()), "serve", "--config", str(node.config_file)]
    fail = f"inject={call}:error=EIO:when={first}+"
    # -D: what we spawned, and stop, is the node; strace is its grandchild.
    only = ["-P", str(file)] if file else []
    node.spawn(["strace", "-D", "-f", "-qq", *only, "-e", f"trace={call}", "-e", fail, "-o", "/dev/null", *serve])
    return node.wait_ready(60)


@pytest.mark.root
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_failed_sync_acknowledges_nothing_and_stops_the_node(make_subject, call):
    """A sync is never tried again; exit 75, and what was acknowledged before is there."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    node = make_subject({"spool": {"inline_limit": "16 KiB"}})
    before = instances.study(5)
    clients.store_all(node, before)
    node.stop()
    spawn_with_failing(node, call, 25)
    acknowledged, failed = [], None
    try:
        association, _ = clients.associate(node, before)
        for number in range(200):
            one = instances.instance(pixel_bytes=40_000 if number % 2 else 2_000)
            reply = association.store(1, one.sop_class, one.sop_instance, one.data_set)
            if reply.status != 0:
                failed = reply.status
                break
            acknowledged.append(one)
    except (Closed, OSError, AssertionError):
        pass  # Closed or aborted by the stop: no answer is no acknowledgement either.
    assert failed in (None, 0xA700), f"{failed:04X}"
    wait_until(node.died, "the node stops", 30)
    assert node.process.returncode == 75, node.log_tail()
    node.start()
    held = node.held()
    assert all(held.get(one.sop_instance) == [one.sha256] for one in before + acknowledged)


@pytest.mark.root
def test_a_second_storage_failure_leaves_a_node_that_only_reads(make_subject):
    """After the first it stops, to recover from what is on the disk; stopping again would mend nothing."""
    node = make_subject()
    node.stop()
    before = instances.study(3)
    spawn_with_failing(node, "fdatasync", 60)
    clients.store_all(node, before)
    clients.indexed(node, before)
    association, _ = clients.associate(node, before)
    try:
        while association.store(1, before[0].sop_class, *fresh(before[0])).status == 0:
            pass
    except (Closed, OSError, AssertionError):
        pass  # Closed or aborted by the stop.
    wait_until(node.died, "the node stops", 30)
    assert node.process.returncode == 75, node.log_tail()

    spawn_with_failing(node, "fdatasync", 30)
    association, _ = clients.associate(node, before)
    wait_until(lambda: association.store(1, before[0].sop_class, *fresh(before[0])).status == 0xA700, "refused", 30)
    assert association.store(1, before[0].sop_class, *fresh(before[0])).status == 0xA700, "it takes nothing any more"
    assert clients.echo(node) == 0
    assert clients.search(node, "/studies").status_code == 200
    assert node.held().keys() >= {one.sop_instance for one in before}
    assert requests.get(f"http://127.0.0.1:{node.http_port}/health/ready", timeout=10).status_code == 503
    assert node.process.poll() is None


@pytest.mark.root
def test_a_bad_sector_is_told_of_and_a_resend_replaces_what_lies_there(make_subject):
    """The scrub goes on past it."""
    node = make_subject({"spool": {"inline_limit": "16 KiB"}})
    bad, good = instances.instance(pixel_bytes=100_000), instances.study(3)
    clients.store_all(node, [bad, *good])
    (file,) = [path for path in files_of(node) if path.parent.name == "large"]
    node.stop()
    spawn_with_failing(node, "pread64", 1, file)
    wait_until(lambda: "relaypacs_acked_object_missing 1" in node.metrics(), "it is counted", 30)
    clients.store_all(node, [bad])
    wait_until(lambda: "relaypacs_acked_object_missing 0" in node.metrics(), "it is held again", 30)
    assert node.held()[bad.sop_instance] == [bad.sha256]


def fresh(like):
    one = instances.instance(sop_class=like.sop_class)
    return one.sop_instance, one.data_set


@pytest.mark.sql
def test_receiving_goes_on_while_the_database_is_away(make_subject):
    """C-STORE is still 0000, and the index catches up."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    server = postgres.PostgreSQL()
    try:
        node = make_subject(start=False)
        node.configure(node.config | {"database": {"url": server.database()}})
        node.start()
        before = instances.study(3)
        clients.store_all(node, before)
        clients.indexed(node, before)
        server.stop("immediate")
        during = instances.study(5)
        clients.store_all(node, during)
        assert clients.echo(node) == 0
        response = clients.search(node, "/studies?PatientID=NOT-ASKED-BEFORE")
        assert response.status_code == 503
        server.start()
        clients.wait_until(
            lambda: clients.search(node, "/studies").status_code == 200, "queries are answered again", 30
        )
        clients.indexed(node, during)
    finally:
        server.remove()
