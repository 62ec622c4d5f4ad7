"""PS3.8 §9.3: establishing an association. What is proposed, byte by byte, and what must be answered."""

import struct

import pytest

import clients
import instances
from pdu import (
    A_ASSOCIATE_AC,
    A_RELEASE_RP,
    APPLICATION_CONTEXT,
    EXPLICIT_LE,
    IMPLICIT_LE,
    VERIFICATION,
    RawAssociation,
    associate_rq,
    item,
    items,
    pdu,
    presentation_context,
    release_rq,
)
from waiting import wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
ECHO = (1, VERIFICATION, [IMPLICIT_LE])
CONFIG = {"limits": {"artim": "2s"}}


def outcome(subject, request):
    """What the subject answers to these bytes on a fresh connection."""
    with RawAssociation(subject.address) as association:
        association.send(request)
        return association.verdict()


def rq(subject, contexts=(ECHO,), **options):
    return associate_rq(contexts, called=options.pop("called", subject.ae_title), **options)


def accepted(subject, contexts=(ECHO,), **options):
    verdict = outcome(subject, rq(subject, contexts, **options))
    assert verdict[0] == "accepted", verdict
    return verdict[1]


@pytest.mark.item(1)
def test_protocol_version_without_bit_0_is_rejected(subject):
    assert outcome(subject, rq(subject, version=2)) == ("reject", 1, 2, 2)


@pytest.mark.item(2)
@pytest.mark.parametrize("version", [0x0003, 0x8001, 0xFFFF])
def test_other_version_bits_are_ignored(subject, version):
    accepted(subject, version=version)


@pytest.mark.item(3)
@pytest.mark.parametrize("context", ["1.2.840.10008.3.1.1.2", "1.2.3"])
def test_a_foreign_application_context_is_rejected(subject, context):
    assert outcome(subject, rq(subject, application_context=context)) == ("reject", 1, 1, 2)


@pytest.mark.item(4)
@pytest.mark.relaypacs
def test_an_unknown_called_ae_title_is_rejected(subject):
    assert outcome(subject, rq(subject, called="NOBODY")) == ("reject", 1, 1, 7)


@pytest.mark.item(5)
@pytest.mark.relaypacs
def test_a_calling_ae_title_that_is_no_peer_is_rejected(make_subject):
    peers = [{"ae_title": "CT_1", "allow": ["127.0.0.1"]}, {"ae_title": "CT_2", "allow": ["10.1.4.0/24"]}]
    known = make_subject({"dicom": {"admission": "known", "peers": peers}})
    assert outcome(known, rq(known, calling="CT_9")) == ("reject", 1, 1, 3)
    assert outcome(known, rq(known, calling="CT_2")) == ("reject", 1, 1, 3), "right name, wrong address"
    accepted(known, calling="CT_1")


@pytest.mark.item(6)
@pytest.mark.relaypacs
def test_associations_over_the_limit_are_rejected_as_transient(make_subject):
    small = make_subject({"limits": {"associations": 4}})
    held = [RawAssociation(small.address) for _ in range(4)]
    for association in held:
        association.associate([ECHO], called=small.ae_title)
    verdict = outcome(small, rq(small))
    assert verdict in (("reject", 2, 3, 2), ("reject", 2, 3, 1)), verdict
    held.pop().release()
    wait_until(lambda: outcome(small, rq(small))[0] == "accepted", "a slot is free again")
    for association in held:
        association.close()


@pytest.mark.item(7)
def test_ae_titles_lose_their_padding(subject):
    accepted(subject, called="  " + subject.ae_title, calling="  PADDED")


@pytest.mark.item(7)
@pytest.mark.relaypacs
def test_ae_titles_are_case_sensitive(subject):
    assert outcome(subject, rq(subject, called=subject.ae_title.lower())) == ("reject", 1, 1, 7)


@pytest.mark.item(8)
def test_an_unknown_abstract_syntax_is_refused_with_3(subject):
    # Printing is a registered service that no gateway offers.
    contexts = [ECHO, (3, "1.2.840.10008.5.1.1.9", [IMPLICIT_LE]), (5, "1.2.840.10008.1.3.10", [EXPLICIT_LE])]
    results = accepted(subject, contexts).results
    assert [results[number][0] for number in (1, 3, 5)] == [0, 3, 3]


@pytest.mark.item(9)
def test_no_common_transfer_syntax_is_refused_with_4(subject):
    results = accepted(subject, [ECHO, (3, CT, ["1.2.3.4.5.6.7"]), (5, VERIFICATION, ["1.2.3.4"])]).results
    assert (results[3][0], results[5][0]) == (4, 4)


@pytest.mark.item(10)
def test_exactly_one_of_the_proposed_transfer_syntaxes_is_accepted(subject):
    proposals = {
        1: [IMPLICIT_LE],
        3: [EXPLICIT_LE, IMPLICIT_LE],
        5: ["1.2.840.10008.1.2.4.50", "1.2.3.4.5", IMPLICIT_LE],
        7: ["1.2.840.10008.1.2.2"],
    }
    answer = accepted(subject, [(number, CT, syntaxes) for number, syntaxes in proposals.items()])
    for number, result, syntaxes in answer.contexts:
        assert result == 0, number
        assert len(syntaxes) == 1 and syntaxes[0] in proposals[number], number


@pytest.mark.item(10)
@pytest.mark.relaypacs
def test_what_arrives_compressed_is_preferred_over_making_the_peer_decompress(subject):
    """The stated preference: the peer's own order, so that it need not transcode."""
    jpeg_first = ["1.2.840.10008.1.2.4.70", EXPLICIT_LE, IMPLICIT_LE]
    assert accepted(subject, [(1, CT, jpeg_first)]).results[1][1] == [jpeg_first[0]]


@pytest.mark.item(11)
def test_each_proposed_context_is_answered_once_under_its_id(subject):
    contexts = [(number, VERIFICATION if number % 4 == 1 else "1.2.3", [IMPLICIT_LE]) for number in (255, 1, 3, 99)]
    answered = [number for number, _, _ in accepted(subject, contexts).contexts]
    assert sorted(answered) == [1, 3, 99, 255]


@pytest.mark.item(11)
@pytest.mark.parametrize("ids", [(2,), (0,), (1, 1)], ids=["even", "zero", "duplicate"])
def test_an_impossible_context_id_aborts(subject, ids):
    verdict = outcome(subject, rq(subject, [(number, VERIFICATION, [IMPLICIT_LE]) for number in ids]))
    assert verdict[0] == "abort", verdict


@pytest.mark.item(11)
def test_no_context_at_all_aborts(subject):
    assert outcome(subject, rq(subject, []))[0] == "abort"


@pytest.mark.item(12)
def test_128_contexts_are_negotiated(subject):
    syntaxes = [EXPLICIT_LE, IMPLICIT_LE] + [f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)]
    contexts = [(2 * n + 1, CT if n else VERIFICATION, syntaxes if n else [IMPLICIT_LE]) for n in range(128)]
    answer = accepted(subject, contexts)
    assert len(answer.contexts) == 128
    assert all(result == 0 for _, result, _ in answer.contexts)


@pytest.mark.item(13)
def test_unknown_items_and_sub_items_are_ignored(subject):
    odd_context = presentation_context(1, VERIFICATION, [IMPLICIT_LE])
    odd_context = item(0x20, odd_context[4:] + item(0x77, b"x"))
    accepted(
        subject, [odd_context], extra_items=item(0x99, b"unknown"), user_items=item(0x5F, b"unknown") + item(0xEE, b"")
    )


@pytest.mark.item(14)
def test_reserved_bytes_are_not_tested(subject):
    request = bytearray(rq(subject, reserved=bytes(range(32)), reserved_2=b"\xff\xff"))
    request[1] = 0xFF
    assert outcome(subject, bytes(request))[0] == "accepted"


@pytest.mark.item(14)
def test_titles_and_reserved_field_are_echoed(subject):
    """PS3.8 table 9-17: bytes 11–26, 27–42 and 43–74 carry what the request had there."""
    request = rq(subject, calling="ECHOED", reserved=bytes(range(32)))
    with RawAssociation(subject.address) as association:
        association.send(request)
        kind, body = association.receive()
    assert kind == A_ASSOCIATE_AC
    assert body[4:68] == request[10:74]


@pytest.mark.item(14)
def test_the_answer_names_the_application_context_and_one_maximum_length(subject):
    answer = accepted(subject)
    assert answer.application_context == APPLICATION_CONTEXT
    assert struct.unpack(">H", answer.body[:2])[0] & 1 == 1
    assert len(answer.user[0x51]) == 1 and len(answer.user[0x51][0]) == 4
    items(answer.body[68:])


@pytest.mark.item(16)
@pytest.mark.relaypacs
def test_the_announced_maximum_length_is_the_configured_one(make_subject):
    small = make_subject({"limits": {"pdu": "32 KiB"}})
    assert accepted(small).maximum == 32 * 1024


@pytest.mark.item(12)
def test_a_request_of_one_byte_segments_is_understood(subject):
    with RawAssociation(subject.address) as association:
        association.send_bytewise(rq(subject))
        assert association.verdict()[0] == "accepted"


@pytest.mark.item(13)
@pytest.mark.parametrize("cut", [1, 4, 30, 70])
def test_an_item_that_runs_past_the_pdu_aborts(subject, cut):
    request = rq(subject)
    body = request[6:-cut]
    verdict = outcome(subject, pdu(request[0], body))
    assert verdict[0] in ("abort", "closed"), verdict
    assert clients.echo(subject) == 0


@pytest.mark.item(23)
def test_release_is_answered_and_the_requestor_closes(subject):
    with RawAssociation(subject.address) as association:
        association.associate([ECHO], called=subject.ae_title)
        association.send(release_rq())
        kind, body = association.receive()
        assert (kind, body) == (A_RELEASE_RP, bytes(4))


@pytest.mark.item(23)
@pytest.mark.relaypacs
def test_after_the_release_the_connection_is_closed_on_artim(subject):
    with RawAssociation(subject.address) as association:
        association.associate([ECHO], called=subject.ae_title)
        association.send(release_rq())
        association.receive()
        assert association.closed_within(6), "the requestor never closed, and neither did the node"


@pytest.mark.item(8, 10)
def test_one_association_may_offer_every_service(subject):
    contexts = [
        ECHO,
        (3, CT, [EXPLICIT_LE]),
        (5, "1.2.840.10008.5.1.4.1.2.1.1", [IMPLICIT_LE]),
        (7, "1.2.840.10008.5.1.4.1.2.2.1", [EXPLICIT_LE, IMPLICIT_LE]),
    ]
    assert [result for result, _ in accepted(subject, contexts).results.values()] == [0, 0, 0, 0]


@pytest.mark.item(7)
def test_a_pdu_of_a_known_object_still_works_after_all_that(subject):
    clients.store_all(subject, [instances.instance()])
