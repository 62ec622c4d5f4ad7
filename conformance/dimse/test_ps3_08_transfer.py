"""PS3.8 §9.2 and §9.3.5: the state machine once a connection exists; P-DATA in every legal and illegal shape."""

import struct

import pytest

import clients
import instances
from pdu import (
    A_ABORT,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    C_ECHO_RQ,
    IMPLICIT_LE,
    NO_DATA_SET,
    P_DATA_TF,
    VERIFICATION,
    Closed,
    RawAssociation,
    abort,
    associate_rq,
    command,
    p_data,
    parse_command,
    pdu,
    pdv,
    release_rp,
    release_rq,
)
from waiting import wait_until

ECHO = (1, VERIFICATION, [IMPLICIT_LE])
CONFIG = {"limits": {"artim": "2s", "dimse_idle": "20s"}}
ECHO_RQ = command(AffectedSOPClassUID=VERIFICATION, CommandField=C_ECHO_RQ, MessageID=7, CommandDataSetType=NO_DATA_SET)


def established(subject, **options):
    association = RawAssociation(subject.address)
    association.associate([ECHO], called=subject.ae_title, **options)
    return association


def aborted(association, *expected):
    verdict = association.verdict()
    assert verdict[0] == "abort", verdict
    if expected:
        assert verdict[1:] in expected, verdict
    assert association.closed_within(6), "the connection stays open after the abort"


# Sta2: a connection, no association yet (action AA-1, source 0).


@pytest.mark.item(17)
@pytest.mark.parametrize("kind", [0x00, 0x08, 0x47, 0xFF])
def test_an_unknown_pdu_before_the_request_aborts(subject, kind):
    with RawAssociation(subject.address) as association:
        association.send(pdu(kind, b"\0\0\0\0"))
        aborted(association, (0, 0))


@pytest.mark.item(18)
@pytest.mark.parametrize(
    "first", [p_data(pdv(1, 3, ECHO_RQ)), release_rq(), release_rp()], ids=["data", "release-rq", "release-rp"]
)
def test_an_unexpected_pdu_before_the_request_aborts(subject, first):
    with RawAssociation(subject.address) as association:
        association.send(first)
        aborted(association, (0, 0))


@pytest.mark.item(18)
def test_an_abort_before_the_request_closes_quietly(subject):
    with RawAssociation(subject.address) as association:
        association.send(abort())
        assert association.verdict() == ("closed",)


@pytest.mark.item(17)
def test_http_on_the_dicom_port_is_turned_away(subject):
    with RawAssociation(subject.address) as association:
        association.send(b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n")
        assert association.verdict()[0] in ("abort", "closed")
    assert clients.echo(subject) == 0


@pytest.mark.item(16)
@pytest.mark.parametrize("kind", [0x01, 0x04, 0x05])
def test_a_4_gib_length_before_the_request_costs_no_memory(subject, kind):
    before = subject.memory() if subject.process else 0
    with RawAssociation(subject.address) as association:
        association.send(struct.pack(">BBI", kind, 0, 0xFFFFFFFF) + bytes(64))
        if subject.strict:
            aborted(association, (0, 0))
        if subject.process:
            assert subject.memory() - before < 8 << 20


@pytest.mark.item(21)
@pytest.mark.parametrize("sent", [0, 3, 40], ids=["nothing", "half-a-header", "half-a-request"])
def test_a_request_that_does_not_come_is_not_awaited_for_ever(subject, sent):
    with RawAssociation(subject.address) as association:
        association.send(associate_rq([ECHO], called=subject.ae_title)[:sent])
        assert association.closed_within(subject.closes_within)


@pytest.mark.item(21)
@pytest.mark.relaypacs
def test_artim_counts_for_the_request_as_a_whole(subject):
    """One byte now and then does not start it anew."""
    with RawAssociation(subject.address) as association:
        request = iter(associate_rq([ECHO], called=subject.ae_title))

        def trickle():
            try:
                association.send(bytes([next(request)]))
            except Closed:
                return True
            return association.closed_within(0.2)

        wait_until(trickle, "the trickling connection is closed", 6)


@pytest.mark.item(21)
def test_after_a_reject_the_connection_is_closed(subject):
    with RawAssociation(subject.address) as association:
        association.send(associate_rq([ECHO], called=subject.ae_title, version=2))
        association.verdict()
        assert association.closed_within(subject.closes_within)


# Sta6: established (action AA-8, source 2).


@pytest.mark.item(17)
def test_an_unknown_pdu_on_an_association_aborts(subject):
    with established(subject) as association:
        association.send(pdu(0x99, b"\0\0\0\0"))
        aborted(association, (2, 1))


@pytest.mark.item(18)
def test_a_second_request_on_an_association_aborts(subject):
    with established(subject) as association:
        association.send(associate_rq([ECHO], called=subject.ae_title))
        aborted(association, (2, 2))


@pytest.mark.item(18)
def test_a_release_reply_that_nobody_asked_for_aborts(subject):
    with established(subject) as association:
        association.send(release_rp())
        aborted(association, (2, 2))


BAD_PDVS = {
    "length-0": struct.pack(">I", 0),
    "length-1": struct.pack(">IB", 1, 1),
    "past-the-pdu": struct.pack(">IBB", 500, 1, 3) + ECHO_RQ[:20],
    "length-ffffffff": struct.pack(">IBB", 0xFFFFFFFF, 1, 3) + ECHO_RQ[:20],
    "half-a-header": b"\0\0",
    "no-pdv": b"",
}


@pytest.mark.item(19)
@pytest.mark.parametrize("name", BAD_PDVS)
def test_a_damaged_pdv_aborts(subject, name):
    with established(subject) as association:
        association.send(pdu(P_DATA_TF, BAD_PDVS[name]))
        aborted(association, (2, 6), (2, 0))


@pytest.mark.item(19)
def test_a_data_fragment_where_a_command_belongs_aborts(subject):
    with established(subject) as association:
        association.send(p_data(pdv(1, 0x02, ECHO_RQ)))
        aborted(association)


@pytest.mark.item(14)
def test_reserved_bits_of_the_control_header_are_not_tested(subject):
    """PS3.8 §E.2: bits 2 to 7 are never checked by the receiver."""
    with established(subject) as association:
        association.send(p_data(pdv(1, 0xFF, ECHO_RQ)))
        verdict = association.verdict()
        assert verdict[0] == "pdu", verdict
        answer = parse_command(verdict[2][6:])
        assert (answer["CommandField"], answer["Status"]) == (0x8030, 0x0000), answer


@pytest.mark.item(20)
@pytest.mark.parametrize("context_id", [3, 2, 0, 255])
def test_a_pdv_on_a_context_that_was_not_accepted_aborts(subject, context_id):
    with established(subject) as association:
        association.send(p_data(pdv(context_id, 0x03, ECHO_RQ)))
        aborted(association, (2, 6), (2, 0))


@pytest.mark.item(16)
@pytest.mark.relaypacs
def test_a_pdu_over_the_announced_maximum_aborts(subject):
    with established(subject) as association:
        maximum = association.accepted.maximum
        try:
            association.send(p_data(pdv(1, 0x01, bytes(maximum))))
        except Closed:
            return
        aborted(association, (2, 6))


@pytest.mark.item(16)
def test_a_4_gib_pdu_on_an_association_costs_no_memory(subject):
    before = subject.memory() if subject.process else 0
    with established(subject) as association:
        association.send(struct.pack(">BBI", P_DATA_TF, 0, 0xFFFFFFFF) + bytes(64))
        if subject.strict:
            aborted(association, (2, 6))
        if subject.process:
            assert subject.memory() - before < 8 << 20


@pytest.mark.item(22)
def test_a_release_collision_is_resolved(subject):
    """The node as requestor (Sta7): the acceptor asks for release at the same moment (AR-8, AR-9, AR-10)."""
    if subject.name != "relaypacs":
        pytest.xfail("asks for a way to make the subject call us")
    from peers import RawAcceptor

    seen = {}

    def collide(connection):
        connection.accept()
        while True:
            kind, _ = connection.receive()
            if kind == A_RELEASE_RQ:
                break
            connection.answer_echo()
        connection.send(release_rq())
        seen["reply"] = connection.receive()[0]
        connection.send(release_rp())
        seen["closed"] = connection.closed_within(5)

    with RawAcceptor(collide) as acceptor:
        done = subject.run("echo", f"RAW@127.0.0.1:{acceptor.port}", check=False)
        acceptor.join()
    assert seen == {"reply": A_RELEASE_RP, "closed": True}
    assert done.returncode == 0, done.stderr


@pytest.mark.item(24)
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 50])
def test_a_command_may_be_split_at_any_byte(subject, size):
    with established(subject) as association:
        pieces = [ECHO_RQ[at : at + size] for at in range(0, len(ECHO_RQ), size)]
        controls = [0x01] * (len(pieces) - 1) + [0x03]
        for control, piece in zip(controls, pieces):
            association.send(p_data(pdv(1, control, piece)))
        assert association.receive_message().status == 0


@pytest.mark.item(24)
def test_a_fragment_may_be_empty(subject):
    with established(subject) as association:
        association.send(p_data(pdv(1, 0x01, ECHO_RQ)) + p_data(pdv(1, 0x03, b"")))
        assert association.receive_message().status == 0


def object_in_shape(subject, shape):
    """Sends one object whose command and data set are cut as `shape` says; the status."""
    one = instances.instance(pixel_bytes=3000)
    association, ids = clients.associate(subject, [one])
    context = next(iter(ids.values()))
    from pdu import C_STORE_RQ

    encoded = command(
        AffectedSOPClassUID=one.sop_class,
        AffectedSOPInstanceUID=one.sop_instance,
        CommandField=C_STORE_RQ,
        MessageID=1,
        Priority=0,
        CommandDataSetType=1,
    )
    with association:
        association.send(shape(context, encoded, one.data_set))
        status = association.receive_message().status
        association.release()
    if subject.dicomweb:
        clients.indexed(subject, [one])
        (file,) = clients.retrieve(subject, one.path)
        if subject.strict:
            assert instances.split_part10(file)[1] == one.data_set
    return status


def split(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.item(24)
def test_command_and_data_may_share_a_pdu(subject):
    shape = lambda context, encoded, data: p_data(pdv(context, 3, encoded), pdv(context, 2, data))  # noqa: E731
    assert object_in_shape(subject, shape) == 0


@pytest.mark.item(24)
def test_a_pdu_may_hold_many_pdvs(subject):
    def shape(context, encoded, data):
        commands = split(encoded, 30)
        pdvs = [pdv(context, 1, piece) for piece in commands[:-1]] + [pdv(context, 3, commands[-1])]
        pieces = split(data, 111)
        pdvs += [pdv(context, 0, piece) for piece in pieces[:-1]] + [pdv(context, 2, pieces[-1])]
        return b"".join(p_data(*pdvs[at : at + 5]) for at in range(0, len(pdvs), 5))

    assert object_in_shape(subject, shape) == 0


@pytest.mark.item(24)
def test_a_data_set_may_come_in_one_byte_fragments(subject):
    def shape(context, encoded, data):
        pieces = split(data, 1)
        pdvs = [pdv(context, 0, piece) for piece in pieces] + [pdv(context, 2, b"")]
        return p_data(pdv(context, 3, encoded)) + b"".join(
            p_data(*pdvs[at : at + 500]) for at in range(0, len(pdvs), 500)
        )

    assert object_in_shape(subject, shape) == 0


@pytest.mark.item(24)
def test_tcp_segments_of_one_byte_are_put_together(subject):
    with established(subject) as association:
        association.send_bytewise(p_data(pdv(1, 0x03, ECHO_RQ)))
        assert association.receive_message().status == 0


@pytest.mark.item(15)
@pytest.mark.parametrize("maximum", [128, 4096, 16384, 0])
def test_no_p_data_exceeds_what_the_peer_announced(subject, maximum):
    one = instances.instance(StudyDescription="x" * 64, PatientID="MAXPDU" + instances.new_uid()[-8:])
    clients.store_all(subject, [one])
    clients.indexed(subject, [one])
    model = "1.2.840.10008.5.1.4.1.2.2.1"
    keys = clients.query(
        "STUDY",
        PatientID=one.elements.PatientID,
        StudyInstanceUID=None,
        StudyDescription=None,
        PatientName=None,
        ReferringPhysicianName=None,
        AccessionNumber=None,
        StudyDate=None,
        StudyTime=None,
        StudyID=None,
    )
    with RawAssociation(subject.address) as association:
        association.associate([(1, model, [IMPLICIT_LE])], called=subject.ae_title, maximum=maximum)
        replies = association.find(1, model, instances.encode(keys, IMPLICIT_LE))
    assert len(replies) == 2 and replies[-1].status == 0
    if maximum:
        longest = max(max(reply.pdu_lengths) for reply in replies)
        assert longest <= maximum
    if maximum == 128:
        assert len(replies[0].pdu_lengths) > 2, "the answer was not long enough to need fragments"


@pytest.mark.item(25)
@pytest.mark.parametrize("way", ["abort", "reset", "close", "release"])
def test_a_peer_that_breaks_off_mid_object_leaves_nothing(subject, way):
    rounds = 1000 if subject.strict and way in ("abort", "reset") else 20
    one = instances.instance(pixel_bytes=40_000)
    for _ in range(rounds):
        association, ids = clients.associate(subject, [one])
        context = next(iter(ids.values()))
        association.begin_store(context, one.sop_class, one.sop_instance)
        association.send(p_data(pdv(context, 0, one.data_set[:9000])))
        if way == "abort":
            association.send(abort())
        elif way == "release":
            association.send(release_rq())
            assert association.verdict()[0] != "accepted"
        association.reset() if way == "reset" else association.close()
    assert clients.echo(subject) == 0
    if subject.strict:
        wait_until(lambda: "relaypacs_association_active 0" in without_labels(subject.metrics()), "all slots are free")
        assert one.sop_instance not in subject.held()


def without_labels(metrics):
    """Metric lines with an empty label set written as none."""
    return metrics.replace("{}", "").replace(".0\n", "\n")


@pytest.mark.item(18)
def test_what_the_abort_says_is_a_whole_pdu(subject):
    with established(subject) as association:
        association.send(pdu(0x99, b""))
        kind, body = association.receive()
        assert kind == A_ABORT and len(body) == 4 and body[:2] == b"\0\0"
