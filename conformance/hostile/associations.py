"""A. The DIMSE listener before trust: what a stranger may send to an open port."""

import struct
import time

from hostile.case import Table
from pdu import (
    A_ASSOCIATE_RQ,
    C_ECHO_RQ,
    IMPLICIT_LE,
    NO_DATA_SET,
    P_DATA_TF,
    VERIFICATION,
    Closed,
    RawAssociation,
    associate_rq,
    command,
    item,
    p_data,
    pdu,
    pdv,
)
from waiting import wait_until

TABLE = Table()
ECHO = (1, VERIFICATION, [IMPLICIT_LE])
ECHO_RQ = command(AffectedSOPClassUID=VERIFICATION, CommandField=C_ECHO_RQ, MessageID=1, CommandDataSetType=NO_DATA_SET)


def request(node, contexts=(ECHO,), **options):
    return associate_rq(contexts, **{"called": node.ae_title, "calling": "GOOD"} | options)


def first_answer(node, data, seconds=8):
    with RawAssociation(node.address) as association:
        try:
            association.send(data)
        except Closed:
            pass
        return association.verdict(seconds)


def in_association(node, data):
    """The answer to these bytes on an established association."""
    with RawAssociation(node.address) as association:
        association.associate([ECHO], called=node.ae_title, calling="GOOD")
        try:
            association.send(data)
        except Closed:
            pass
        return association.verdict()


@TABLE.case("A1", "HTTP on the DICOM port", ("abort", 0, 0))
def http(node):
    return first_answer(node, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


@TABLE.case("A2", "PDU length FFFFFFFF before an association", ("abort", 0, 0), request=A_ASSOCIATE_RQ, data=P_DATA_TF)
def endless_pdu(node, kind):
    before = node.memory()
    verdict = first_answer(node, struct.pack(">BBI", kind, 0, 0xFFFFFFFF) + bytes(1000))
    assert node.memory() - before < 4 << 20
    return verdict


@TABLE.case("A2b", "PDU length FFFFFFFF on an association", ("abort", 2, 6))
def endless_pdu_later(node):
    before = node.memory()
    verdict = in_association(node, struct.pack(">BBI", P_DATA_TF, 0, 0xFFFFFFFF) + bytes(1000))
    assert node.memory() - before < 4 << 20
    return verdict


@TABLE.case("A3", "P-DATA longer than announced", ("abort", 2, 6))
def long_p_data(node):
    with RawAssociation(node.address) as association:
        maximum = association.associate([ECHO], called=node.ae_title, calling="GOOD").maximum
        association.send(struct.pack(">BBI", P_DATA_TF, 0, maximum + 1))
        return association.verdict()


@TABLE.case("A4", "P-DATA first", ("abort", 0, 0))
def data_first(node):
    return first_answer(node, p_data(pdv(1, 3, ECHO_RQ)))


@TABLE.case("A5", "a second A-ASSOCIATE-RQ", ("abort", 2, 2))
def second_request(node):
    return in_association(node, request(node))


@TABLE.case("A6", "silence after connect", "closed by ARTIM")
def silence(node):
    with RawAssociation(node.address) as association:
        return "closed by ARTIM" if association.closed_within(6) else "still open"


@TABLE.case("A7", "one byte now and then", "closed by ARTIM")
def trickle(node):
    with RawAssociation(node.address) as association:
        until = time.monotonic() + 8
        for byte in request(node):
            try:
                association.send(bytes([byte]))
            except Closed:
                return "closed by ARTIM"
            if association.closed_within(0.3):
                return "closed by ARTIM"
            if time.monotonic() > until:
                break
        return "still open"


def raw_request(node, variable):
    fixed = struct.pack(">HH", 1, 0) + node.ae_title.encode().ljust(16) + b"GOOD".ljust(16) + bytes(32)
    return pdu(A_ASSOCIATE_RQ, fixed + variable)


@TABLE.case(
    "A8",
    "an item past the end of its PDU",
    ("abort", 0, 0),
    item=struct.pack(">BBH", 0x10, 0, 500) + b"1.2.840",
    sub_item=item(0x20, b"\1\0\0\0" + struct.pack(">BBH", 0x30, 0, 500) + b"1.2"),
    header=b"\x10\0\0",
)
def item_past_the_end(node, variable):
    return first_answer(node, raw_request(node, variable))


@TABLE.case(
    "A9",
    "impossible presentation contexts",
    ("abort", 0, 0),
    none=[],
    even=[(2, VERIFICATION, [IMPLICIT_LE])],
    duplicate=[ECHO, ECHO],
    too_many=[(n % 256, VERIFICATION, [IMPLICIT_LE]) for n in range(1, 259, 2)],
)
def contexts(node, proposed):
    return first_answer(node, request(node, proposed))


@TABLE.case("A9b", "a presentation context without transfer syntax", {("abort", 0, 0), "refused"})
def no_transfer_syntax(node):
    verdict = first_answer(node, request(node, [(1, VERIFICATION, [])]))
    return "refused" if verdict[0] == "accepted" and verdict[1].results[1][0] == 4 else verdict


@TABLE.case("A10", "protocol version 2", ("reject", 1, 2, 2))
def version(node):
    return first_answer(node, request(node, version=2))


@TABLE.case("A11", "a foreign application context", ("reject", 1, 1, 2))
def application_context(node):
    return first_answer(node, request(node, application_context="1.2.840.10008.3.1.1.9"))


@TABLE.case("A12", "an unknown calling AE title", ("reject", 1, 1, 3), unknown="STRANGER", empty="")
def calling(node, title):
    return first_answer(node, request(node, calling=title))


@TABLE.case("A13", "an unknown called AE title", ("reject", 1, 1, 7), unknown="STRANGER", empty="")
def called(node, title):
    return first_answer(node, request(node, called=title))


@TABLE.case("A14", "a known AE title from another address", ("reject", 1, 1, 3))
def wrong_address(node):
    return first_answer(node, request(node, calling="ELSEWHERE"))


@TABLE.case(
    "A15",
    "an AE title that would do harm in a path or a log",
    ("reject", 1, 1, 3),
    path=b"../../x",
    line=b"A\r\nB",
    nul=b"A\0B",
    escape=b"\x1b[2J",
    quote=b'"}{"level":',
    high=b"\xff\xfe",
)
def dangerous_title(node, title):
    verdict = first_answer(node, request(node, calling=title))
    log = node.log.read_bytes()
    assert b"\x1b[2J" not in log and b"A\r\nB" not in log and b"\0" not in log, "raw bytes of a peer in the log"
    return verdict


@TABLE.case("A16", "one association too many", {("reject", 2, 3, 2), ("reject", 2, 3, 1)})
def too_many(node):
    held, limit = [], node.config["limits"]["associations"]
    try:
        while len(held) <= limit:
            association = RawAssociation(node.address)
            held.append(association)
            association.send(request(node))
            verdict = association.verdict()
            if verdict[0] != "accepted":
                # The last echo's slot may just have been in use.
                assert len(held) >= limit - 1, f"refused after {len(held)} of {limit}"
                return verdict
        return "all accepted"
    finally:
        for association in held:
            association.close()
        # The node hears of that a moment later.
        wait_until(lambda: first_answer(node, request(node))[0] == "accepted", "places are free again")


@TABLE.case("A19", "connect and be rejected, 3,000 times", "memory as before")
def reject_cycles(node):
    def cycle(count):
        for _ in range(count):
            assert first_answer(node, request(node, calling="STRANGER"))[0] == "reject"

    cycle(500)
    before = node.memory()
    cycle(3000)
    growth = node.memory() - before
    return "memory as before" if growth < 5 << 20 else f"{growth >> 20} MiB more"
