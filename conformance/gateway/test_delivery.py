"""Delivery, as an archive and an operator see it: everything arrives, nothing counts as verified that is not there."""

import threading

import pytest

import clients
import instances
from gateway.support import all_in_state, send, states, to, wait_arrived, wait_verified
from peers import Archive
from waiting import DeadlinePassed, wait_until
from web_sink import WebSink

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


@pytest.fixture
def archive():
    with Archive(keep=True) as running:
        yield running


@pytest.fixture
def sink():
    with WebSink(keep=True) as running:
        yield running


# The good case


@pytest.mark.parametrize("commitment", ["same", "new"])
def test_objects_arrive_byte_by_byte_and_are_verified_by_commitment(make_subject, archive, commitment):
    archive.commitment = commitment
    node = make_subject(to(archive.destination()))
    archive.callback = node.address
    many = send(node, 12) + send(node, 3, transfer_syntax="1.2.840.10008.1.2")
    wait_arrived(archive, many)
    wait_verified(node, "archive", many)
    sent = {one.sop_instance: one for one in many}
    for received in archive.received:
        one = sent[received.sop_instance]
        assert (received.sop_class, received.transfer_syntax) == (one.sop_class, one.transfer_syntax)
        assert received.data_set == one.data_set and received.calling == "RELAYPACS"
    assert len(archive.received) == len(many), "something was sent twice"
    asked = {uid for _, references in archive.transactions for _, uid in references}
    assert asked == set(sent)
    assert {answer for _, answer in archive.report_answers} == {0x0000}
    line = node.destination("archive")
    assert (line["verified"], line["queued"], line["sent"], line["poisoned"]) == (15, 0, 0, 0) and line["up"]


def test_objects_arrive_by_stow_and_are_verified_by_query(make_subject, sink):
    node = make_subject(to(sink.destination()))
    many = send(node, 10)
    wait_arrived(sink, many)
    wait_verified(node, "web", many)
    assert {one.data_set for one in sink.received} == {one.data_set for one in many}
    assert node.destination("web")["verified"] == 10


def test_an_archive_without_commitment_is_asked_by_c_find(make_subject):
    with Archive(commitment=None) as plain:
        node = make_subject(to(plain.destination(verify="query")))
        many = send(node, 6)
        wait_arrived(plain, many)
        wait_verified(node, "archive", many)
        assert plain.queries


def test_an_archive_that_is_believed_is_not_asked(make_subject):
    with Archive(commitment=None) as plain:
        node = make_subject(to(plain.destination(verify="none")))
        many = send(node, 4)
        wait_arrived(plain, many)
        wait_until(lambda: set(states(node, "archive").values()) <= {"sent", "verified"}, "all are sent")
        assert not plain.queries and not plain.transactions


def test_stored_by_stow_is_delivered_too(make_subject, archive):
    node = make_subject(to(archive.destination()))
    many = instances.study(5)
    clients.stow_all(node, many)
    wait_arrived(archive, many)
    wait_verified(node, "archive", many)


def test_associations_are_reused_and_batches_heeded(make_subject, archive):
    node = make_subject(to(archive.destination(batch=10, associations=1, verify="none")))
    many = send(node, 40)
    wait_arrived(archive, many)
    assert archive.associations <= 12, "an association for (nearly) each object"


def test_a_big_object_arrives_unchanged(make_subject, archive):
    node = make_subject(to(archive.destination(timeout="20s")))
    one = instances.instance(pixel_bytes=6_000_000)
    clients.store_all(node, [one])
    wait_arrived(archive, [one])
    wait_verified(node, "archive", [one])


# Rules


def test_rules_choose_destinations(make_subject, archive, sink):
    rules = [
        {"name": "ct", "when": {"modality": ["CT"], "calling_ae_title": ["CT_*"]}, "to": ["archive"]},
        {"name": "stow", "when": {"door": ["stow"]}, "to": ["web"]},
        {"name": "knee", "when": {"study_description": ["*knee*", "KNEE?"]}, "to": ["archive", "web"]},
    ]
    node = make_subject(to(archive.destination(), sink.destination(), rules=rules))
    ct, other, knee, web = (instances.instance() for _ in range(4))
    knee = instances.instance(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4", StudyDescription="KNEE1")
    clients.store_all(node, [ct], calling="CT_7")
    clients.store_all(node, [other], calling="MR_7")
    clients.store_all(node, [knee], calling="MR_7")
    clients.stow_all(node, [web])
    wait_arrived(archive, [ct, knee])
    wait_arrived(sink, [web, knee])
    assert set(archive.uids()) == {ct.sop_instance, knee.sop_instance}
    assert set(sink.uids()) == {web.sop_instance, knee.sop_instance}
    entries = {entry["sop_instance_uid"]: entry for entry in node.lines("spool", "list")}
    assert entries[other.sop_instance]["deliveries"] == [] and entries[other.sop_instance]["routed"]


# Archives that fail


def test_a_killed_archive_gets_everything_when_it_is_back(make_subject, archive):
    node = make_subject(to(archive.destination()))
    before = send(node, 3)
    wait_verified(node, "archive", before)
    archive.stop()
    during = send(node, 20)
    wait_until(lambda: not node.destination("archive")["up"], "it is seen to be down")
    archive.start()
    wait_arrived(archive, during, 60)
    wait_verified(node, "archive", during, 60)


def test_an_archive_that_hangs_is_given_up_and_tried_again(make_subject, archive, sink):
    archive.hang = threading.Event()
    node = make_subject(to(archive.destination(timeout="1s"), sink.destination()))
    many = send(node, 10)
    wait_arrived(sink, many, 20)
    assert clients.echo(node) == 0
    assert not any(state == "verified" for state in states(node, "archive").values())
    hang, archive.hang = archive.hang, None
    hang.set()
    wait_verified(node, "archive", many, 60)


def test_an_archive_that_aborts_in_the_middle_of_an_object_gets_it_later(make_subject, archive):
    archive.abort_after = 50_000
    node = make_subject(to(archive.destination()))
    big = instances.instance(pixel_bytes=400_000)
    clients.store_all(node, [big])
    wait_until(lambda: archive.associations >= 1 and node.destination("archive")["verified"] == 0, "it was tried")
    assert archive.uids() == {}
    archive.abort_after = None
    wait_arrived(archive, [big], 60)
    wait_verified(node, "archive", [big], 60)


def test_a_full_archive_gets_everything_when_it_has_room(make_subject, archive):
    archive.store_status = 0xA700
    node = make_subject(to(archive.destination()))
    many = send(node, 5)
    wait_until(lambda: archive.associations >= 1, "it was tried")
    assert node.destination("archive")["poisoned"] == 0
    archive.store_status = 0x0000
    wait_arrived(archive, many, 60)
    wait_verified(node, "archive", many, 60)


def test_an_archive_that_refuses_associations_gets_everything_when_it_does_not(make_subject, archive):
    archive.reject = (2, 3, 1)
    node = make_subject(to(archive.destination()))
    many = send(node, 5)
    wait_until(lambda: not node.destination("archive")["up"], "it is seen to be down")
    archive.reject = None
    wait_verified(node, "archive", many, 60)


def test_what_an_archive_acknowledges_and_drops_never_counts_as_verified(make_subject, archive):
    many = instances.study(6)
    victim = many[2].sop_instance
    archive.drop = lambda one: one.sop_instance == victim
    node = make_subject(to(archive.destination(verify_deadline="3s")))
    clients.store_all(node, many)
    others = [one for one in many if one.sop_instance != victim]
    wait_verified(node, "archive", others)
    wait_until(
        lambda: len([one for one in archive.forgotten if one.sop_instance == victim]) >= 2, "it is sent again", 60
    )
    assert states(node, "archive")[victim] != "verified"
    line = node.destination("archive")
    assert line["verified"] == 5
    archive.drop = lambda _: False
    wait_verified(node, "archive", many, 60)


def test_what_a_web_archive_acknowledges_and_drops_never_counts_as_verified(make_subject, sink):
    many = instances.study(6)
    victim = many[4].sop_instance
    sink.drop = lambda one: one.sop_instance == victim
    node = make_subject(to(sink.destination(verify_deadline="3s")))
    clients.store_all(node, many)
    wait_verified(node, "web", [one for one in many if one.sop_instance != victim])
    assert states(node, "web")[victim] != "verified"
    sink.drop = lambda _: False
    wait_verified(node, "web", many, 60)


def test_a_failed_commitment_sends_that_object_again(make_subject, archive):
    """Type 2 with FailedSOPSequence; the others of the transaction are done."""
    many = instances.study(5)
    victim = many[0].sop_instance
    archive.commitment_fails = lambda uid: 0x0110 if uid == victim else None
    node = make_subject(to(archive.destination()))
    clients.store_all(node, many)
    wait_verified(node, "archive", many[1:])
    assert states(node, "archive")[victim] != "verified"
    archive.commitment_fails = lambda _: None
    wait_verified(node, "archive", many, 60)
    assert [one.sop_instance for one in archive.received].count(victim) >= 2


def test_a_commitment_that_never_comes_is_asked_for_again(make_subject, archive):
    archive.commitment = "never"
    node = make_subject(to(archive.destination(verify_deadline="2s")))
    many = send(node, 3)
    wait_arrived(archive, many)
    wait_until(lambda: len(archive.transactions) >= 2, "it is asked again", 40)
    assert not any(state == "verified" for state in states(node, "archive").values())
    archive.commitment = "same"
    wait_verified(node, "archive", many, 60)


def test_a_report_about_nothing_changes_nothing(make_subject, archive):
    """B60: an unknown transaction, or one of another peer, is answered and proves nothing."""
    archive.commitment = "never"
    node = make_subject(
        to(
            archive.destination(),
            dicom={
                "admission": "known",
                "peers": [{"ae_title": "CONFORMANCE"}, {"ae_title": "INTRUDER"}],
            },
        )
    )
    many = send(node, 3)
    wait_until(lambda: archive.transactions, "commitment is asked for")
    archive.callback = node.address
    _, references = archive.transactions[0]
    assert archive.send_report((instances.new_uid(), references)) is not None
    with Archive("INTRUDER") as intruder:
        intruder.callback, intruder.received = node.address, archive.received
        intruder.send_report(archive.transactions[0])
    assert clients.echo(node) == 0
    assert not any(state == "verified" for state in states(node, "archive").values())
    assert archive.send_report(archive.transactions[0]) == 0x0000
    wait_verified(node, "archive", [one for one in many if one.sop_instance in {uid for _, uid in references}])


@pytest.mark.item(48)
def test_a_destination_may_come_in_for_its_reports_only(make_subject, archive):
    node = make_subject(to(archive.destination(), dicom={"admission": "known", "peers": [{"ae_title": "CONFORMANCE"}]}))
    archive.callback = node.address
    archive.commitment = "new"
    many = send(node, 3)
    wait_verified(node, "archive", many)
    one = instances.instance()
    try:
        reply = clients.store(node, [one], calling="ARCHIVE")[0]
        assert reply is None or reply.status == 0x0124
    except AssertionError as refused:
        assert "not accepted" in str(refused) or "0124" in str(refused)
    assert one.sop_instance not in node.held()


def test_a_duplicate_at_the_archive_is_verified_not_refused(make_subject, archive):
    """0111 says that it has one of that name; whether it is this one, verification tells."""
    archive.store_status = lambda one: 0x0111 if one.sop_instance in archive.uids() else 0x0000
    node = make_subject(to(archive.destination()))
    many = send(node, 3)
    wait_verified(node, "archive", many)
    assert node.destination("archive")["poisoned"] == 0


def test_a_warning_is_a_delivery(make_subject, archive):
    archive.store_status = 0xB000
    node = make_subject(to(archive.destination()))
    many = send(node, 3)
    wait_verified(node, "archive", many)
    assert len(archive.received) == 3


@pytest.mark.timeout(240)
def test_what_an_archive_refuses_for_good_is_poison_and_blocks_nobody(make_subject, archive):
    """A900 five times while others pass; it is kept for a person."""
    bad = instances.instance()
    archive.store_status = lambda one: 0xA900 if one.sop_instance == bad.sop_instance else 0x0000
    node = make_subject(to(archive.destination()))
    clients.store_all(node, [bad])
    others = []

    def poisoned():
        others.extend(send(node, 1))
        return states(node, "archive").get(bad.sop_instance) == "poisoned"

    wait_until(poisoned, "it is poison", 200, every=1)
    wait_verified(node, "archive", others)
    assert node.held()[bad.sop_instance] == [bad.sha256]
    assert node.destination("archive")["poisoned"] == 1
    archive.store_status = 0x0000
    assert "queued 1 " in node.run("destination", "requeue", "archive").stdout
    wait_verified(node, "archive", [bad])


def test_deliveries_can_be_given_up_so_that_a_destination_can_go(make_subject, archive):
    node = make_subject()
    add = ["destination", "add", "archive", "--ae-title", archive.ae_title, "--host", "127.0.0.1"]
    node.run(*add, "--port", archive.port)
    node.run("destination", "pause", "archive")
    many = send(node, 3)
    wait_until(lambda: node.destination("archive")["queued"] == 3, "they wait")
    refused = node.run("destination", "remove", "archive", check=False)
    assert refused.returncode == 1 and "destination cancel archive --all" in refused.stderr
    assert "gave up 0 " in node.run("destination", "cancel", "archive").stdout, "none is poisoned"
    first, *rest = (entry["entry"] for entry in node.lines("spool", "list"))
    assert "gave up 1 " in node.run("destination", "cancel", "archive", "--entry", first).stdout
    again = node.run("destination", "cancel", "archive", "--entry", first, check=False)
    assert again.returncode == 1 and "is cancelled" in again.stderr
    assert "queued 0 " in node.run("destination", "requeue", "archive", "--poisoned").stdout
    assert "queued 1 " in node.run("destination", "requeue", "archive", "--entry", first).stdout
    unknown = node.run("destination", "cancel", "archive", "--entry", max(rest) + 1_000_000, check=False)
    assert unknown.returncode == 1 and node.destination("archive")["queued"] == 3
    assert "gave up 3 " in node.run("destination", "cancel", "archive", "--all").stdout
    node.run("destination", "remove", "archive")
    assert node.held() == {one.sop_instance: [one.sha256] for one in many}, "given up is not freed"


def test_a_class_that_the_archive_does_not_take_blocks_nobody(make_subject):
    with Archive(abstract=["1.2.840.10008.5.1.4.1.1.2"]) as only_ct:
        node = make_subject(to(only_ct.destination()))
        mr = instances.instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR")
        clients.store_all(node, [mr])
        many = send(node, 5)
        wait_verified(node, "archive", many)
        assert states(node, "archive")[mr.sop_instance] in ("queued", "deferred", "poisoned")


@pytest.mark.item(15)
@pytest.mark.parametrize("maximum", [0, 1, 2000, 0xFFFFFFFF])
def test_any_maximum_length_of_the_archive_is_lived_with(make_subject, maximum):
    """0 is no limit; 1 can't be met, which is that archive's fault and nobody else's."""
    import pdu
    from peers import RawAcceptor

    longest, stored = [0], []

    def script(connection):
        connection.accept(maximum=maximum)
        while True:
            message = connection.receive_message(20)
            longest[0] = max(longest[0], *message.pdu_lengths)
            if message.command["CommandField"] == pdu.C_STORE_RQ:
                stored.append(message.data_set)
                connection.answer_store(message)
            else:
                connection.answer_echo(message.context_id, message.command["MessageID"])

    with RawAcceptor(script) as acceptor:
        node = make_subject(
            to(
                {
                    "name": "raw",
                    "kind": "dimse",
                    "ae_title": "RAW",
                    "host": "127.0.0.1",
                    "port": acceptor.port,
                    "verify": "none",
                    "timeout": "5s",
                }
            )
        )
        one = instances.instance(pixel_bytes=300_000)
        clients.store_all(node, [one])
        try:
            wait_until(lambda: stored, "it arrives", 10 if maximum == 1 else 30)
        except DeadlinePassed:
            assert maximum == 1
        assert clients.echo(node) == 0 and node.memory() < 160 << 20
        if stored:
            assert stored[0] == one.data_set
            assert longest[0] <= (256 << 10) and (maximum in (0, 1) or longest[0] <= maximum)


def test_an_endless_qido_answer_is_cut(make_subject, sink):
    """What does not fit into 1 MiB proves nothing."""
    sink.answer = b"[" + b'{"00080018":{"vr":"UI","Value":["1.2.3"]}},' * 400_000 + b"{}]"
    node = make_subject(to(sink.destination()))
    many = send(node, 2)
    wait_arrived(sink, many)
    wait_until(lambda: any(method == "GET" for method, _, _ in sink.requests), "it is asked")
    assert node.memory("VmHWM") < 120 << 20
    assert not any(state == "verified" for state in states(node, "web").values())
    sink.answer = None
    wait_verified(node, "web", many, 90)


def test_a_web_archive_that_answers_503_gets_everything_later(make_subject, sink):
    sink.status = 503
    node = make_subject(to(sink.destination()))
    many = send(node, 4)
    wait_until(lambda: sink.requests, "it was tried")
    sink.status = 200
    wait_verified(node, "web", many, 60)


def test_a_web_archive_that_cuts_the_connection_gets_everything_later(make_subject, sink):
    sink.cut_after = 1000
    node = make_subject(to(sink.destination()))
    many = send(node, 4)
    wait_until(lambda: sink.requests, "it was tried")
    assert sink.uids() == {}
    sink.cut_after = None
    wait_verified(node, "web", many, 60)


def test_one_bad_instance_of_a_request_does_not_hold_up_the_rest(make_subject, sink):
    many = instances.study(5)
    victim = many[1].sop_instance
    sink.fail = lambda one: 0xA700 if one.sop_instance == victim else None
    node = make_subject(to(sink.destination()))
    clients.store_all(node, many)
    wait_verified(node, "web", [one for one in many if one.sop_instance != victim])
    sink.fail = lambda _: None
    wait_verified(node, "web", many, 60)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_credentials_are_shown_to_a_web_archive(make_subject, tmp_path, kind):
    import base64

    secret = tmp_path / "secret"
    secret.write_text("a long enough secret\n")
    secret.chmod(0o600)
    if kind == "basic":
        given = {"username": "gateway", "password_file": str(secret)}
        expected = "Basic " + base64.b64encode(b"gateway:a long enough secret").decode()
    else:
        given, expected = {"token_file": str(secret)}, "Bearer a long enough secret"
    with WebSink(authorization=expected) as guarded:
        node = make_subject(to(guarded.destination(**given)))
        many = send(node, 2)
        wait_verified(node, "web", many)
        assert "a long enough secret" not in node.log.read_text()
        assert "a long enough secret" not in node.run("check-config").stdout


def test_three_archives_one_dead_one_slow_slow_nobody_down(make_subject, archive, sink):
    with Archive("DEAD") as dead, Archive("SLOW") as slow:
        dead.stop()
        slow.hang = threading.Event()
        node = make_subject(
            to(
                archive.destination(),
                dead.destination("dead"),
                slow.destination("slow", timeout="20s"),
                sink.destination(),
            )
        )
        many = send(node, 30)
        wait_verified(node, "archive", many, 20)
        wait_verified(node, "web", many, 20)
        assert not all_in_state(node, "slow", many[:1], "verified")


def test_a_conflict_is_not_sent_anywhere(make_subject, archive):
    node = make_subject(to(archive.destination()))
    first = instances.instance()
    second = first.with_data_set(
        instances.encode(
            instances.elements(
                SOPInstanceUID=first.sop_instance,
                StudyInstanceUID=first.study,
                SeriesInstanceUID=first.series,
                PatientID="X",
            )
        )
    )
    clients.store_all(node, [first, second])
    wait_verified_or_seen = lambda: archive.uids().get(first.sop_instance) == first.sha256  # noqa: E731
    wait_until(wait_verified_or_seen, "the first arrives")
    after = send(node, 3)
    wait_arrived(archive, after)
    assert second.sha256 not in {one.sha256 for one in archive.received}
