"""What strangers, broken devices and attackers send. After each case the node serves, is small, has lost nothing."""

import pytest

import clients
import instances
from hostile import associations, http, messages

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(90)]
CEILING = 160 << 20
CASES = [*associations.TABLE, *messages.TABLE, *http.TABLE]
CONFIG = {
    "dicom": {
        "admission": "known",
        "peers": [
            {"ae_title": "GOOD", "allow": ["127.0.0.1"]},
            {"ae_title": "ELSEWHERE", "allow": ["10.0.0.0/8", "192.0.2.7"]},
        ],
    },
    "spool": {"inline_limit": "256 KiB"},
    "limits": {
        "artim": "2s",
        "dimse_idle": "3s",
        "associations": 24,
        "http_headers": "2s",
        "http_stall": "3s",
        "http_body": "128 MiB",
        "object": "64 MiB",
    },
}


@pytest.fixture(scope="module")
def acknowledged(subject):
    """Objects that were acknowledged before the trouble began, and are compared after it."""
    earlier = instances.study(20) + [instances.instance(pixel_bytes=600_000)]
    clients.store_all(subject, earlier[:10] + earlier[-1:], calling="GOOD")
    clients.stow_all(subject, earlier[10:-1])
    return earlier


@pytest.mark.item(16, 17, 18, 19, 20, 21, 25)
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bad_input_is_answered_as_the_table_says(subject, acknowledged, case):
    observed = case.send(subject)
    still_serves(subject)
    assert case.judge(observed), f"{case.title}: {observed!r} instead of {case.expected!r}"


def still_serves(subject):
    assert subject.process.poll() is None, f"the node died:\n{subject.log_tail()}"
    assert clients.echo(subject, calling="GOOD") == 0
    assert subject.is_ready()
    rss = subject.memory()
    assert rss < CEILING, f"{rss >> 20} MiB resident"


def test_after_all_that_nothing_acknowledged_is_gone(subject, acknowledged):
    held = subject.held()
    assert [one.sop_instance for one in acknowledged if held.get(one.sop_instance) != [one.sha256]] == []
    subject.run("spool", "verify")
    clients.indexed(subject, acknowledged)
    for one in acknowledged:
        (file,) = clients.retrieve(subject, one.path)
        assert instances.split_part10(file)[1] == one.data_set


def test_after_all_that_nothing_was_written_elsewhere(subject, acknowledged):
    strangers = {"passwd", "x", "cron.d"}
    names = {path.name for path in subject.folder.rglob("*")}
    assert not names & strangers
    assert sorted(path.name for path in subject.folder.iterdir() if path.name != "core") == [
        "data",
        "log",
        "out",
        "relaypacs.toml",
    ]


@pytest.mark.item(6)
def test_a_flood_of_connections_is_slowed_while_others_are_served(make_subject):
    """A17: 1,000 connections a second from one address are refused for a while (RJ 2/3/1)."""
    node = make_subject({"limits": {"connections_per_second": 50}})
    verdicts = [associations.first_answer(node, associations.request(node)) for _ in range(300)]
    assert ("reject", 2, 3, 1) in verdicts
    assert "accepted" in {verdict[0] for verdict in verdicts}
    clients.wait_until(lambda: served(node), "the flood is over and the same address is served again", 10)


def served(node):
    return associations.first_answer(node, associations.request(node))[0] == "accepted"
