"""B. DIMSE messages and data sets from a peer that was let in."""

import struct
import threading
import time
import zlib

import clients
import instances
from clients import STUDY_ROOT, query
from hostile.associations import ECHO, ECHO_RQ, in_association
from hostile.case import Table, aborts, status_in
from instances import elements, encode, explicit_element, instance, nested, of
from pdu import (
    A_ABORT,
    EXPLICIT_LE,
    IMPLICIT_LE,
    NO_DATA_SET,
    P_DATA_TF,
    VERIFICATION,
    Closed,
    RawAssociation,
    command,
    p_data,
    parse_command,
    pdu,
    pdv,
)

TABLE = Table()
CT, MR, DEFLATED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1.99"


def status(node, one, **claimed):
    """The status of a C-STORE, as four digits."""
    association, _ = clients.associate(node, [one], calling="GOOD")
    with association:
        reply = association.store(
            1,
            claimed.get("sop_class", one.sop_class),
            claimed.get("sop_instance", one.sop_instance),
            one.data_set,
            timeout=60,
        )
        association.release()
        return f"{reply.status:04X}"


def stored(node, one):
    """The status, and that the bytes come back."""
    answer = status(node, one)
    if answer == "0000":
        clients.indexed(node, [one])
        (file,) = clients.retrieve(node, one.path)
        assert instances.split_part10(file)[1] == one.data_set, "the bytes changed"
    return answer


def with_damage(damage):
    """An instance whose data set is changed; its identifiers stay as they were."""
    one = instance()
    return one.with_data_set(damage(one.data_set))


def before_pixels(one, inserted):
    at = one.data_set.index(b"\xe0\x7f\x10\0OW")
    return one.with_data_set(one.data_set[:at] + inserted + one.data_set[at:])


def in_order(one, inserted):
    """`inserted` stands where its tag (0008,1140) or (0009,xxxx) belongs."""
    at = one.data_set.index(b"\x10\0\x10\0PN")
    return one.with_data_set(one.data_set[:at] + inserted + one.data_set[at:])


@TABLE.case(
    "B26",
    "PDV lengths that lie",
    ("abort", 2, 6),
    zero=struct.pack(">I", 0),
    one=struct.pack(">IB", 1, 1),
    over=struct.pack(">IBB", 4000, 1, 3) + ECHO_RQ,
    endless=struct.pack(">IBB", 0xFFFFFFFF, 1, 3) + ECHO_RQ,
)
def pdv_length(node, body):
    return in_association(node, pdu(P_DATA_TF, body))


@TABLE.case("B27", "P-DATA without PDV", ("abort", 2, 6))
def no_pdv(node):
    return in_association(node, pdu(P_DATA_TF, b""))


@TABLE.case("B28", "empty fragments without end", "given up")
def empty_fragments(node):
    """They are no progress: the idle limit (3 s here) counts on."""
    with RawAssociation(node.address) as association:
        association.associate([ECHO], called=node.ae_title, calling="GOOD")
        empty = p_data(pdv(1, 1, b"")) * 50
        until = time.monotonic() + 12
        while time.monotonic() < until:
            try:
                association.send(empty)
            except (Closed, TimeoutError):
                return "given up"
            if association.closed_within(0.05):
                return "given up"
        return "still listening"


@TABLE.case("B29", "a command set that is none", ("abort", 2, 6), long=b"x" * 20_000, group=b"")
def bad_command(node, padding):
    if not padding:
        return in_association(node, p_data(pdv(1, 3, ECHO_RQ + struct.pack("<HHI", 8, 0x18, 4) + b"1.2\0")))
    long = command(
        AffectedSOPClassUID=VERIFICATION,
        CommandField=0x30,
        MessageID=1,
        CommandDataSetType=NO_DATA_SET,
        ErrorComment=padding,
    )
    return in_association(node, p_data(pdv(1, 1, long[:10_000])) + p_data(pdv(1, 3, long[10_000:])))


@TABLE.case("B30", "an unknown command field", status_in(0x0211))
def unknown_command(node):
    unknown = command(
        AffectedSOPClassUID=VERIFICATION, CommandField=0x0777, MessageID=1, CommandDataSetType=NO_DATA_SET
    )
    verdict = in_association(node, p_data(pdv(1, 3, unknown)))
    return f"{parse_command(verdict[2][6:])['Status']:04X}" if verdict[0] == "pdu" else verdict


@TABLE.case("B31", "a context that was not accepted", ("abort", 2, 6))
def unaccepted_context(node):
    return in_association(node, p_data(pdv(77, 3, ECHO_RQ)))


@TABLE.case("B32", "no SOP Instance UID in the data set", status_in(0xC000))
def no_instance_uid(node):
    one = instance()
    return status(node, one.with_data_set(encode(elements(SOPInstanceUID=None))))


UIDS = {
    "path": "../../etc/cron.d/x",
    "absolute": "/tmp/x",
    "nul": "1.2\0.3",
    "long": "1" * 65,
    "word": "abc",
}


@TABLE.case("B33", "an impossible UID in the command", status_in(0x0117), **UIDS)
def command_uid(node, uid):
    return status(node, instance(), sop_instance=uid)


@TABLE.case(
    "B33b", "an impossible UID in the data set", status_in(0xC000), **{k: v for k, v in UIDS.items() if k != "nul"}
)
def data_set_uid(node, uid):
    one = instance()
    old = explicit_element(0x0020000D, b"UI", one.study.encode() + b"\0" * (len(one.study) % 2))
    new = explicit_element(0x0020000D, b"UI", uid.encode() + b"\0" * (len(uid) % 2))
    assert old in one.data_set
    return status(node, one.with_data_set(one.data_set.replace(old, new)))


@TABLE.case(
    "B33c",
    "command or file meta elements in the data set",
    status_in(0xC000),
    group_0000=explicit_element(0x00000002, b"UI", b"1.2\0"),
    group_0002=explicit_element(0x00020010, b"UI", b"1.2\0"),
)
def foreign_groups(node, element):
    return status(node, with_damage(lambda data: element + data))


@TABLE.case("B34", "command and data set name different instances", status_in(0xA900))
def other_instance(node):
    return status(node, instance(), sop_instance=instances.new_uid())


@TABLE.case("B35", "a SOP class outside its context", status_in(0x0122))
def other_class(node):
    return status(node, instance(), sop_class=MR)


@TABLE.case("B36", "the data set ends inside an element", status_in(0xC000), **{f"{n}": n for n in (1, 3, 7, 50, 130)})
def cut(node, missing):
    return status(node, with_damage(lambda data: data[:-missing]))


@TABLE.case("B37", "a length of FFFFFFF0 and ten bytes", status_in(0xC000), explicit=EXPLICIT_LE, implicit=IMPLICIT_LE)
def huge_length(node, syntax):
    one = instance(syntax)
    head = struct.pack("<HH", 0x7FE1, 0x0010)
    head += b"OB\0\0" if syntax == EXPLICIT_LE else b""
    before = node.memory()
    answer = status(node, one.with_data_set(one.data_set + head + struct.pack("<I", 0xFFFFFFF0) + b"ten bytes!"))
    assert node.memory() - before < 8 << 20, "memory follows the claim"
    return answer


@TABLE.case("B38", "nested sequences", status_in(0xC000), **{f"{n}": n for n in (65, 5_000, 200_000)})
def nesting(node, depth):
    return status(node, in_order(instance(), nested(depth)))


@TABLE.case("B38b", "nested sequences within the limit", status_in(0x0000))
def shallow(node):
    return stored(node, in_order(instance(), nested(60)))


@TABLE.case("B38c", "nested sequences in unknown VR, implicit", status_in(0xC000), **{f"{n}": n for n in (65, 5_000)})
def nesting_in_unknown(node, depth):
    begin = struct.pack("<HHI", 0x0009, 0x1010, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    first = struct.pack("<HH2sHI", 0x0009, 0x1010, b"UN", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return status(node, in_order(instance(), first + begin * depth + end * (depth + 1)))


@TABLE.case("B39", "a sequence that is never closed", status_in(0xC000))
def open_sequence(node):
    begin = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return status(node, with_damage(lambda data: data + begin))


@TABLE.case("B40", "more than a million tiny elements", status_in(0xC000))
def tiny_elements(node):
    """Ten million would only be more of the same."""
    before = node.memory()
    answer = status(node, in_order(instance(), explicit_element(0x00091010, b"LO", b"") * 1_100_000))
    assert node.memory() - before < 32 << 20
    return answer


def deflated(one, plain):
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    data = b"".join(deflate.compress(piece) for piece in plain) + deflate.flush()
    return instances.replace(one, transfer_syntax=DEFLATED, data_set=data + b"\0" * (len(data) % 2))


@TABLE.case("B41", "a deflate bomb before the pixels", status_in(0xC000))
def bomb(node):
    one = instance()
    at = one.data_set.index(b"\xe0\x7f\x10\0OW")
    head = struct.pack("<HH2sHI", 0x0099, 0x1010, b"OB", 0, 1 << 30)
    before = node.memory()
    answer = status(node, deflated(one, [one.data_set[:at], head, *[bytes(1 << 20)] * 1024, one.data_set[at:]]))
    assert node.memory() - before < 32 << 20
    return answer


@TABLE.case("B41b", "a deflate bomb in the pixels is stored as it came", status_in(0x0000))
def pixel_bomb(node):
    one = instance()
    at = one.data_set.index(b"\xe0\x7f\x10\0OW")
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1 << 30)
    before = node.memory()
    answer = stored(node, deflated(one, [one.data_set[:at], head, *[bytes(1 << 20)] * 1024]))
    assert node.memory() - before < 32 << 20
    return answer


@TABLE.case("B41c", "a deflated data set that is no deflate stream", status_in(0xC000))
def no_deflate(node):
    return status(node, instances.replace(instance(), transfer_syntax=DEFLATED))


@TABLE.case(
    "B42",
    "bytes of another transfer syntax",
    status_in(0xC000),
    implicit=IMPLICIT_LE,
    big="1.2.840.10008.1.2.2",
    deflated=DEFLATED,
)
def wrong_syntax(node, claimed):
    return status(node, instances.replace(instance(), transfer_syntax=claimed))


@TABLE.case("B43", "impossible image dimensions are stored untouched", status_in(0x0000))
def giant_dimensions(node):
    return stored(node, instance(Rows=65535, Columns=65535, NumberOfFrames="65535"))


def encapsulated(transfer_syntax, *fragments, end=b"\xfe\xff\xdd\xe0\0\0\0\0"):
    one = instance()
    head = one.data_set[: one.data_set.index(b"\xe0\x7f\x10\0OW")]
    pixels = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
    for fragment in fragments:
        pixels += b"\xfe\xff\x00\xe0" + struct.pack("<I", len(fragment)) + fragment
    return instances.replace(one, transfer_syntax=transfer_syntax, data_set=head + pixels + end)


@TABLE.case("B44", "a broken offset table is stored", status_in(0x0000))
def bad_offset_table(node):
    return stored(
        node, encapsulated("1.2.840.10008.1.2.4.50", struct.pack("<III", 0, 0xFFFFFFF0, 7), b"\xff\xd8\xff\xd9")
    )


@TABLE.case(
    "B45",
    "broken compressed pixels are stored",
    status_in(0x0000),
    jpeg="1.2.840.10008.1.2.4.50",
    j2k="1.2.840.10008.1.2.4.90",
    rle="1.2.840.10008.1.2.5",
    ht="1.2.840.10008.1.2.4.201",
)
def broken_pixels(node, syntax):
    return stored(node, encapsulated(syntax, b"", b"\xff\x4f" + bytes(range(200))))


@TABLE.case("B45b", "encapsulated pixels without an end", status_in(0xC000))
def pixels_without_end(node):
    return status(node, encapsulated("1.2.840.10008.1.2.4.50", b"", b"\xff\xd8\xff\xd9", end=b""))


@TABLE.case(
    "B46",
    "a character set that breaks its rules is stored",
    status_in(0x0000),
    escapes=(b"\\ISO 2022 IR 87", b"A^\x1b$B\x7f\xff\x1b(Z"),
    unknown=(b"NO_SUCH_SET", b"A^B\xff"),
    truncated=(b"ISO_IR 192", b"A^\xe5\xb1"),
    gb18030=(b"GB18030", b"A^\x81"),
)
def bad_charset(node, given):
    charset, name = given
    one = instance()
    data = one.data_set
    even = lambda value: value + b" " * (len(value) % 2)  # noqa: E731
    data = data.replace(
        explicit_element(0x00080005, b"CS", b"ISO_IR 192"), explicit_element(0x00080005, b"CS", even(charset))
    )
    data = data.replace(
        explicit_element(0x00100010, b"PN", even(b"Synthetic^Patient")), explicit_element(0x00100010, b"PN", even(name))
    )
    answer = stored(node, one.with_data_set(data))
    assert len(clients.qido(node, f"/studies?StudyInstanceUID={one.study}")) == 1
    return answer


@TABLE.case("B47", "markup in a name is only text", status_in(0x0000))
def markup(node):
    one = instance(PatientName="<script>alert(1)</script>^\"';--")
    answer = stored(node, one)
    (match,) = clients.qido(node, f"/studies?StudyInstanceUID={one.study}")
    assert match["00100010"]["Value"][0]["Alphabetic"].startswith("<script>")
    return answer


@TABLE.case("B48", "the same bytes eight times at once", ({"0000"}, 1))
def concurrent_duplicates(node):
    one = instance(pixel_bytes=300_000)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(status(node, one))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    return set(answers), len(node.held()[one.sop_instance])


@TABLE.case("B49", "the same UID with other bytes", ("0000", "0000", 2))
def conflict(node):
    first = instance()
    second = of(
        elements(
            SOPInstanceUID=first.sop_instance,
            StudyInstanceUID=first.study,
            SeriesInstanceUID=first.series,
            PatientID="X",
        )
    )
    return status(node, first), status(node, second), len(node.held()[first.sop_instance])


@TABLE.case("B50", "one study of two patients", ("0000", "0000"))
def two_patients(node):
    first = instance(PatientID="P1")
    return status(node, first), status(node, instance(PatientID="P2", StudyInstanceUID=first.study))


def find_status(node, identifier):
    with RawAssociation(node.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=node.ae_title, calling="GOOD")
        return f"{association.find(1, STUDY_ROOT, identifier)[-1].status:04X}"


@TABLE.case("B52", "a megabyte of wildcards", status_in(0xA900))
def wildcards(node):
    return find_status(node, encode(query("STUDY", PatientID="*?" * 500_000), IMPLICIT_LE))


@TABLE.case(
    "B54",
    "SQL in a key is only text",
    status_in(0x0000),
    quote="' OR 1=1--",
    drop="'; DROP TABLE study;--",
    percent="%",
    underscore="_",
)
def sql(node, value):
    return find_status(node, encode(query("STUDY", PatientName=value, StudyInstanceUID=None), IMPLICIT_LE))


@TABLE.case(
    "B54b",
    "a damaged identifier",
    lambda answer: answer == "A900" or answer[0] == "C",
    deep=struct.pack("<HHI", 0x0040, 0x0100, 0xFFFFFFFF) * 1
    + (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHI", 0x0040, 0x0100, 0xFFFFFFFF)) * 20_000,
    cut=encode(query("STUDY"), IMPLICIT_LE)[:-3],
    huge=encode(query("STUDY"), IMPLICIT_LE) + struct.pack("<HHI", 0x0010, 0x0010, 0xFFFFFFF0),
)
def bad_identifier(node, identifier):
    return find_status(node, identifier)


@TABLE.case(
    "B20", "the peer goes away in the middle of an object", "nothing kept", reset="reset", abort="abort", close="close"
)
def goes_away(node, way):
    one = instance(pixel_bytes=400_000)
    association, _ = clients.associate(node, [one], calling="GOOD")
    association.begin_store(1, one.sop_class, one.sop_instance)
    association.send(p_data(pdv(1, 0, one.data_set[:10_000])) * 3)
    if way == "abort":
        association.send(pdu(A_ABORT, bytes(4)))
    association.reset() if way == "reset" else association.close()
    return "nothing kept" if one.sop_instance not in node.held() else "kept"


@TABLE.case("B28b", "an object that stops in the middle", aborts)
def stalls(node):
    one = instance(pixel_bytes=100_000)
    association, _ = clients.associate(node, [one], calling="GOOD")
    with association:
        association.begin_store(1, one.sop_class, one.sop_instance)
        association.send(p_data(pdv(1, 0, one.data_set[:5000])))
        return association.verdict(10)
