"""PS3.7 §6–§9 and Annexes C–E: negotiation of user information, command sets, message exchange."""

import struct

import pytest

import clients
import instances
import pdu
from pdu import (
    C_ECHO_RQ,
    C_ECHO_RSP,
    C_FIND_RQ,
    C_STORE_RSP,
    IMPLICIT_LE,
    NO_DATA_SET,
    VERIFICATION,
    Closed,
    RawAssociation,
    command,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
COMMITMENT = "1.2.840.10008.1.20.1"
ECHO = (1, VERIFICATION, [IMPLICIT_LE])


def opened(subject, contexts=(ECHO,), **options):
    association = RawAssociation(subject.address)
    association.associate(contexts, called=subject.ae_title, **options)
    return association


def echo_rq(message_id=1, **fields):
    fields = {
        "AffectedSOPClassUID": VERIFICATION,
        "CommandField": C_ECHO_RQ,
        "MessageID": message_id,
        "CommandDataSetType": NO_DATA_SET,
    } | fields
    return command(**fields)


@pytest.mark.item(26)
def test_implementation_class_uid_and_version_are_told(subject):
    with opened(subject) as association:
        (uid,), (version,) = association.accepted.user[0x52], association.accepted.user[0x55]
        assert 1 <= len(uid) <= 64 and set(uid) <= set(b"0123456789.")
        assert 1 <= len(version) <= 16


@pytest.mark.item(27)
def test_without_a_proposed_window_there_is_no_window(subject):
    with opened(subject) as association:
        assert 0x53 not in association.accepted.user


@pytest.mark.item(27)
@pytest.mark.parametrize("window", [(1, 1), (5, 5), (0, 0)])
def test_an_answered_window_does_not_exceed_the_proposed_one(subject, window):
    with opened(subject, user_items=pdu.async_window(*window)) as association:
        for answer in association.accepted.user.get(0x53, []):
            for ours, theirs in zip(struct.unpack(">HH", answer), window):
                assert theirs == 0 or 1 <= ours <= theirs
        assert association.echo().status == 0


@pytest.mark.item(28)
def test_a_storage_scu_that_proposes_its_role_gets_it(subject):
    one = instances.instance()
    roles = pdu.role_selection(CT, 1, 0)
    with opened(subject, [(1, CT, [one.transfer_syntax])], user_items=roles) as association:
        for answer in association.accepted.user.get(0x54, []):
            assert answer[-2] == 1, "the SCU role that was asked for is refused"
        assert association.store(1, one.sop_class, one.sop_instance, one.data_set).status == 0


@pytest.mark.item(28)
def test_a_role_is_never_granted_that_was_not_proposed(subject):
    roles = pdu.role_selection(CT, 1, 1)
    with opened(subject, [(1, CT, [IMPLICIT_LE])], user_items=roles) as association:
        for answer in association.accepted.user.get(0x54, []):
            length = struct.unpack(">H", answer[:2])[0]
            assert answer[2 : 2 + length].decode() == CT and set(answer[2 + length :]) <= {0, 1}


IDENTITIES = {
    "name": (1, b"someone", b""),
    "name-and-password": (2, b"someone", b"secret"),
    "kerberos": (3, b"\x60\x82\x01\x02", b""),
    "saml": (4, b"<saml:Assertion/>", b""),
    "jwt": (5, b"eyJhbGciOiJub25lIn0.e30.", b""),
}


@pytest.mark.item(29)
@pytest.mark.parametrize("kind", IDENTITIES)
@pytest.mark.parametrize("response", [False, True], ids=["no-response", "positive-response"])
def test_a_user_identity_is_understood(subject, kind, response):
    """PS3.7 §D.3.3.7: answered only when asked for; who asks in vain learns that nobody checked."""
    number, primary, secondary = IDENTITIES[kind]
    identity = pdu.user_identity(number, primary, secondary, positive_response=response)
    with RawAssociation(subject.address) as association:
        association.send(pdu.associate_rq([ECHO], called=subject.ae_title, user_items=identity))
        verdict = association.verdict()
        assert verdict[0] == "accepted" or verdict[:3] == ("reject", 1, 1), verdict
        if verdict[0] == "accepted":
            answers = verdict[1].user.get(0x59, [])
            assert response or not answers, "an answer that was not asked for"
            for answer in answers:
                assert len(answer) == 2 + struct.unpack(">H", answer[:2])[0]


@pytest.mark.item(30)
def test_extended_negotiation_does_not_disturb(subject):
    items = pdu.extended_negotiation(CT, b"\x02\0\x01\0\0\0")
    items += pdu.common_extended_negotiation(CT, "1.2.840.10008.4.2", ["1.2.840.10008.5.1.4.1.1.7"])
    with opened(subject, [ECHO, (3, CT, [IMPLICIT_LE])], user_items=items) as association:
        assert association.accepted.results[3][0] == 0
        assert association.echo().status == 0


@pytest.mark.item(30)
def test_relational_queries_are_granted_only_byte_for_byte(subject):
    """PS3.4 §C.5.1.1: what is answered is a subset of what was proposed."""
    items = pdu.extended_negotiation(STUDY_FIND, b"\x01\x01\x01\x01")
    with opened(subject, [(1, STUDY_FIND, [IMPLICIT_LE])], user_items=items) as association:
        for answer in association.accepted.user.get(0x56, []):
            length = struct.unpack(">H", answer[:2])[0]
            assert set(answer[2 + length :]) <= {0, 1}


@pytest.mark.item(31)
@pytest.mark.parametrize("length", [0, 4, 0xFFFF, 0xFFFFFFFF, False])
def test_a_wrong_or_absent_command_group_length_does_not_hang(subject, length):
    with opened(subject) as association:
        association.send_command(1, echo_rq(group_length=length))
        verdict = association.verdict()
        assert verdict[0] in ("abort", "pdu"), verdict
    assert clients.echo(subject) == 0


@pytest.mark.item(32, 33)
def test_message_id_and_sop_class_are_echoed(subject):
    with opened(subject) as association:
        for message_id in (1, 0, 65535, 4711):
            answer = association.echo(message_id=message_id).command
            assert answer["CommandField"] == C_ECHO_RSP
            assert answer["MessageIDBeingRespondedTo"] == message_id
            assert answer["AffectedSOPClassUID"] == VERIFICATION
            assert answer["CommandDataSetType"] == NO_DATA_SET


@pytest.mark.item(32, 33)
def test_a_c_store_is_answered_with_its_own_identifiers(subject):
    one = instances.instance()
    association, ids = clients.associate(subject, [one])
    with association:
        answer = association.store(1, one.sop_class, one.sop_instance, one.data_set, message_id=513).command
    assert answer["CommandField"] == C_STORE_RSP and answer["MessageIDBeingRespondedTo"] == 513
    assert answer["AffectedSOPClassUID"] == one.sop_class
    assert answer["AffectedSOPInstanceUID"] == one.sop_instance
    assert "CommandGroupLength" in answer


@pytest.mark.item(34)
@pytest.mark.parametrize("field", [0x0002, 0x00FE, 0x7777, 0x0010, 0x0021])
def test_an_unknown_or_unsupported_command_is_answered_or_aborted(subject, field):
    with opened(subject) as association:
        association.send_command(1, echo_rq(CommandField=field))
        verdict = association.verdict()
        if verdict[0] == "pdu":
            answer = pdu.parse_command(verdict[2][6:])
            assert answer["Status"] in (0x0211, 0x0122, 0x0112), f"{answer['Status']:04X}"
        else:
            assert verdict[0] == "abort", verdict
    assert clients.echo(subject) == 0


@pytest.mark.item(34)
def test_a_response_that_nobody_asked_for_does_not_disturb_others(subject):
    with opened(subject) as association:
        association.send_command(
            1,
            command(
                AffectedSOPClassUID=VERIFICATION,
                CommandField=C_ECHO_RSP,
                MessageIDBeingRespondedTo=9,
                Status=0,
                CommandDataSetType=NO_DATA_SET,
            ),
        )
        assert association.verdict(3)[0] in ("abort", "pdu", "silent")
    assert clients.echo(subject) == 0


@pytest.mark.item(35)
def test_a_c_store_without_data_set_is_refused_or_aborted(subject):
    one = instances.instance()
    association, ids = clients.associate(subject, [one])
    with association:
        association.begin_store(1, one.sop_class, one.sop_instance, CommandDataSetType=NO_DATA_SET)
        verdict = association.verdict()
        if verdict[0] == "pdu":
            assert pdu.parse_command(verdict[2][6:])["Status"] != 0
        else:
            assert verdict[0] == "abort", verdict
    assert clients.echo(subject) == 0


@pytest.mark.item(35)
def test_a_data_set_where_none_was_announced_aborts(subject):
    with opened(subject) as association:
        association.send_command(1, echo_rq())
        association.receive_message()
        association.send_data_set(1, bytes(64))
        assert association.verdict()[0] == "abort"


@pytest.mark.item(36, 47)
def test_a_sop_class_other_than_the_contexts_is_refused(subject):
    one = instances.instance(SOPClassUID=MR, Modality="MR")
    with opened(subject, [(1, CT, [one.transfer_syntax])]) as association:
        answer = association.store(1, MR, one.sop_instance, one.data_set)
        assert answer.status == 0x0122
        assert association.store(1, MR, one.sop_instance, one.data_set, 2).status == 0x0122, "the association lives"


@pytest.mark.item(37)
def test_a_message_id_in_use_gets_0210_or_waits_its_turn(subject):
    keys = instances.encode(clients.query("STUDY", PatientID="NOBODY", StudyInstanceUID=None), IMPLICIT_LE)
    with opened(subject, [(1, STUDY_FIND, [IMPLICIT_LE])]) as association:
        association.begin_find(1, STUDY_FIND, keys, message_id=5)
        association.begin_find(1, STUDY_FIND, keys, message_id=5)
        finals = []
        while len(finals) < 2:
            try:
                kind, body = association.receive()
            except Closed:
                return
            if kind == pdu.A_ABORT:
                return
            status = pdu.parse_command(body[6:])["Status"]
            if status not in (0xFF00, 0xFF01):
                finals.append(status)
        assert set(finals) <= {0x0000, 0x0210}


@pytest.mark.item(38)
def test_an_error_comment_is_short_and_tells_nothing_of_the_patient(subject):
    """PS3.7 §C: LO, at most 64 characters; and nobody reads a name in a log of statuses."""
    damaged = instances.instance(PatientName="Secret^Canary", PatientID="SECRETCANARY")
    replies = []
    association, ids = clients.associate(subject, [damaged])
    with association:
        replies.append(association.store(1, damaged.sop_class, damaged.sop_instance, damaged.data_set[:-7]))
        replies.append(association.store(1, damaged.sop_class, instances.new_uid(), damaged.data_set))
        replies.append(association.store(1, damaged.sop_class, "../../x", damaged.data_set))
    for reply in replies:
        assert reply.status != 0
        comment = reply.command.get("ErrorComment", "")
        assert len(comment) <= 64
        assert "canary" not in comment.lower() and damaged.sop_instance not in comment


@pytest.mark.item(32)
def test_several_messages_follow_each_other_on_one_association(subject):
    many = instances.study(20)
    association, ids = clients.associate(subject, many)
    with association:
        for number, one in enumerate(many, 1):
            association.begin_store(1, one.sop_class, one.sop_instance, number)
            association.send_data_set(1, one.data_set)
        answers = [association.receive_message().command for _ in many]
        association.release()
    assert [answer["MessageIDBeingRespondedTo"] for answer in answers] == list(range(1, 21))
    assert [answer["Status"] for answer in answers] == [0] * 20


@pytest.mark.item(34)
def test_a_query_on_a_storage_context_is_not_carried_out(subject):
    one = instances.instance()
    association, ids = clients.associate(subject, [one])
    with association:
        association.send_command(
            1,
            command(
                AffectedSOPClassUID=STUDY_FIND, CommandField=C_FIND_RQ, MessageID=1, Priority=0, CommandDataSetType=1
            ),
        )
        association.send_data_set(1, instances.encode(clients.query("STUDY"), IMPLICIT_LE))
        verdict = association.verdict()
        if verdict[0] == "pdu":
            assert pdu.parse_command(verdict[2][6:])["Status"] not in (0x0000, 0xFF00, 0xFF01)
        else:
            assert verdict[0] == "abort", verdict


@pytest.mark.item(31)
@pytest.mark.relaypacs
def test_a_command_set_of_another_group_aborts(subject):
    with opened(subject) as association:
        association.send_command(1, echo_rq() + struct.pack("<HHI", 0x0008, 0x0018, 4) + b"1.2\0")
        assert association.verdict() == ("abort", 2, 6)


@pytest.mark.item(31)
@pytest.mark.relaypacs
def test_a_command_set_over_16_kib_aborts(subject):
    with opened(subject) as association:
        long = echo_rq(ErrorComment=b"x" * 20000)
        for at in range(0, len(long), 10000):
            last = at + 10000 >= len(long)
            association.send(pdu.p_data(pdu.pdv(1, 3 if last else 1, long[at : at + 10000])))
        assert association.verdict() == ("abort", 2, 6)
