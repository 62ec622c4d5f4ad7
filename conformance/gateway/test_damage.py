"""Bytes that rot or vanish on the node's disk: they go nowhere as if they were good, and a resend mends them."""

import pathlib

import pytest
import requests

import clients
import instances
from crash import spool_files
from gateway.support import files_of, flip_a_bit, send, states, to, wait_arrived, wait_verified
from peers import Archive
from waiting import wait_until
from web_sink import WebSink

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


def ready(node):
    return requests.get(f"http://127.0.0.1:{node.http_port}/health/ready", timeout=10).json()


@pytest.mark.parametrize("kind", [Archive, WebSink], ids=["by-c-store", "by-stow"])
@pytest.mark.parametrize("size", [20_000, 600_000], ids=["in-the-log", "in-a-file"])
def test_a_flipped_bit_is_not_delivered_nor_retrieved_and_a_resend_replaces_it(make_subject, kind, size):
    """Detected, told of, and the rest goes on."""
    with kind(keep=True) as archive:
        node = make_subject(to(archive.destination(), spool={"inline_limit": "256 KiB"}))
        name = archive.destination()["name"]
        node.run("destination", "pause", name)
        good, bad = send(node, 3), instances.instance(pixel_bytes=size)
        clients.store_all(node, [bad])
        node.stop()
        flip_a_bit(node, bad)
        node.start()
        node.run("destination", "resume", name)
        wait_verified(node, name, good)
        wait_until(lambda: node.metrics().find("relaypacs_acked_object_missing 1") > 0, "it is counted", 30)
        assert ready(node)["status"] == "degraded"
        assert states(node, name)[bad.sop_instance] not in ("sent", "verified")
        assert bad.sop_instance not in archive.uids()
        path = f"/studies/{bad.study}/series/{bad.series}/instances/{bad.sop_instance}"
        for what in ("", "/metadata", "/bulkdata/7FE00010"):
            answer = clients.wado(node, path + what, accept="*/*")
            assert answer.status_code == 500
            assert told_under(node, answer.json()["trace_id"])
        assert node.run("spool", "verify", check=False).returncode == 1

        clients.store_all(node, [bad])
        wait_arrived(archive, [bad])
        wait_verified(node, name, [bad])
        assert "relaypacs_acked_object_missing 0" in node.metrics()
        assert node.run("spool", "verify").returncode == 0
        assert node.held()[bad.sop_instance] == [bad.sha256]


def told_under(node, trace_id):
    """What the log says of the object, under the id that the client was told."""
    return [line for line in node.log.read_text().splitlines() if trace_id in line and "can't be read" in line]


def test_a_segment_that_is_gone_is_told_of_at_each_start_and_resends_are_received_anew(make_subject):
    node = make_subject({"spool": {"segment_size": "1 MiB", "inline_limit": "256 KiB"}})
    many = [instances.instance(pixel_bytes=100_000) for _ in range(30)]
    clients.store_all(node, many)
    node.stop()
    first = min((path for path in files_of(node) if path.suffix == ".log" and path.parent.name == "segments"), key=str)
    pathlib.Path(first).unlink()
    for _ in range(2):
        node.start()
        assert ready(node)["status"] == "degraded"
        assert "relaypacs_acked_object_missing 0" not in node.metrics()
        node.stop()
    node.start()
    clients.store_all(node, many)
    assert node.run("spool", "verify").returncode == 0
    assert "relaypacs_acked_object_missing 0" in node.metrics()
    assert node.held() == {one.sop_instance: [one.sha256] for one in many}


def segments_of(node):
    return sorted(path for path in files_of(node) if path.parent.name == "segments" and path.suffix == ".log")


def lose_queue(node):
    for path in files_of(node):
        if path.parent.name == "queue" and path.parent.parent.name == "spool":
            path.unlink()


def lists_in_review(node):
    lists = [path.read_text() for path in files_of(node) if path.parent.name == "review" and path.suffix == ".tsv"]
    return "".join(lists)


def zero_last_record(node):
    """No object, but the decision where the last one goes."""
    spool = node.folder / "data" / "spool"
    last = spool_files.records(spool)[-1]
    assert not last.is_object
    with last.path.open("r+b") as file:
        file.seek(last.offset)
        file.write(bytes(last.padded_end - last.offset))


@pytest.mark.parametrize("more", [lambda _: None, zero_last_record], ids=["alone", "with the log's last record"])
def test_what_was_lost_together_with_the_queue_is_named_by_the_index_and_what_was_freed_is_not(make_subject, more):
    with Archive() as archive:
        spool = {"segment_size": "1 MiB", "inline_limit": "256 KiB", "retention": "0s"}
        node = make_subject(to(archive.destination(), spool=spool))
        name = archive.destination()["name"]
        freed = [instances.instance(pixel_bytes=100_000) for _ in range(3)]
        clients.store_all(node, freed)
        wait_until(lambda: not node.held(), "all is freed", 60)
        node.run("destination", "pause", name)
        many = [instances.instance(pixel_bytes=100_000) for _ in range(30)]
        clients.store_all(node, many)
        wait_until(lambda: "relaypacs_index_lag_seconds 0" in node.metrics(), "all is indexed", 30)
        node.stop()
        segments_of(node)[0].unlink()
        more(node)
        lose_queue(node)
        node.start()
        held = node.held()
        lost = [one for one in many if one.sop_instance not in held]
        assert len(lost) > 5
        wait_until(lambda: f"relaypacs_acked_object_missing {len(lost)}\n" in node.metrics(), "they are named", 30)
        listed = lists_in_review(node)
        assert all(one.sop_instance in listed and one.sha256 in listed for one in lost)
        assert not any(one.sop_instance in listed for one in freed)
        assert ready(node)["status"] == "degraded"
        assert node.run("reindex").returncode == 0
        node.restart()
        assert f"relaypacs_acked_object_missing {len(lost)}\n" in node.metrics()


def test_a_damaged_database_is_told_of_and_made_anew_from_the_log(make_subject):
    node = make_subject(database="sqlite")
    many = [instances.instance() for _ in range(40)]
    clients.store_all(node, many)
    clients.indexed(node, many)
    node.stop()
    database = next(path for path in node.database_files() if path.suffix == ".db")
    pages = database.stat().st_size // 4096
    with database.open("r+b") as file:
        # The tail is tables that a start does not read.
        file.seek((pages - 5) * 4096)
        file.write(bytes(4 * 4096))
    node.start()
    wait_until(lambda: ready(node)["status"] == "degraded", "it is looked through", 30)
    line = next(line for line in ready(node)["dependencies"] if line["name"] == "database")
    assert line["detail"].startswith("damaged")
    clients.store_all(node, [instances.instance()])
    node.stop()
    for path in node.database_files():
        path.rename(path.with_name("old-" + path.name))
    node.key = None
    node.start()
    clients.indexed(node, many)
    assert ready(node)["status"] == "up"


def test_a_revoked_key_stays_revoked_though_the_databases_write_ahead_log_is_lost(make_subject):
    node = make_subject(database="sqlite")
    key = node.add_key("passing", "dicomweb:read")
    node.restart()
    node.run("key", "revoke", key.split("_")[1])
    node.kill()
    log = next(path for path in node.database_files() if path.name.endswith("-wal"))
    log.write_bytes(bytes(log.stat().st_size))
    node.start()
    url = f"http://127.0.0.1:{node.http_port}/dicom-web/studies"
    answer = requests.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=10)
    assert answer.status_code == 401
