"""PS3.4 Annex B: the Storage service. What arrives is kept byte by byte, or refused with the status that says why."""

import zlib

import pydicom.uid
import pytest
from pydicom.sequence import Sequence

import clients
import instances
from clients import store
from instances import elements, encode, instance, of, split_part10
from pdu import EXPLICIT_LE, IMPLICIT_LE, RawAssociation
from waiting import wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


def status_of(subject, one, **command):
    """C-STORE of one instance; `command` replaces what the command set claims."""
    association, ids = clients.associate(subject, [one])
    with association:
        reply = association.store(
            1, command.get("sop_class", one.sop_class), command.get("sop_instance", one.sop_instance), one.data_set
        )
        association.release()
    return reply.status


def comes_back(subject, one):
    """The stored bytes are those that were sent."""
    clients.indexed(subject, [one])
    (file,) = clients.retrieve(subject, one.path)
    meta, data = split_part10(file)
    assert meta[0x10].rstrip(b"\0").decode() == one.transfer_syntax
    assert meta[0x02].rstrip(b"\0").decode() == one.sop_class
    assert meta[0x03].rstrip(b"\0").decode() == one.sop_instance
    assert data == one.data_set


def is_absent(subject, one):
    assert clients.wado(subject, one.path).status_code == 404


@pytest.mark.item(51)
def test_every_element_comes_back_as_it_was_sent(subject):
    ds = elements(PatientName="Ünicode^Ŋame", PatientComments="  leading and trailing kept  ")
    block = ds.private_block(0x0009, "CONFORMANCE", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "UN", b"\x01\x02\x03\x04")
    block.add_new(0x03, "OB", bytes(range(64)))
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "nested"
    ds.ProcedureCodeSequence = Sequence([item, pydicom.Dataset()])
    one = of(ds)
    assert status_of(subject, one) == 0
    comes_back(subject, one)


@pytest.mark.item(51)
def test_odd_encodings_come_back_as_they_were_sent(subject):
    """Undefined lengths, NUL padding of text, unknown VR of undefined length, trailing padding."""
    one = instance()
    end_of_item, end_of_sequence = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    undefined = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item + end_of_item + end_of_sequence
    creator = instances.explicit_element(0x00090010, b"LO", b"CREATOR\0")
    # PS3.5 §6.2.2: UN of undefined length is a sequence in Implicit VR.
    inner = b"\x09\0\x03\x10\x04\0\0\0abcd"
    unknown = b"\x09\0\x02\x10UN\0\0\xff\xff\xff\xff" + item + inner + end_of_item + end_of_sequence
    padding = instances.explicit_element(0xFFFCFFFC, b"OB", bytes(64))
    at = one.data_set.index(b"\x10\0\x10\0PN")
    odd = one.with_data_set(one.data_set[:at] + undefined + creator + unknown + one.data_set[at:] + padding)
    assert status_of(subject, odd) == 0
    if subject.strict:
        comes_back(subject, odd)


NATIVE = [IMPLICIT_LE, EXPLICIT_LE, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
ENCAPSULATED = [
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.92",
    "1.2.840.10008.1.2.4.93",
    "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.5",
]
ONLY_NEWER = [
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.4.107",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.1.98",
    "1.2.840.10008.1.2.8.1",
    "1.2.840.10008.1.2.4.52",
    "1.2.840.10008.1.2.4.66",
    "1.2.840.10008.1.2.4.106.1",
]


def encapsulated(transfer_syntax, fragments=(b"\xff\xd8fragment one\xff\xd9", b"the second fragment!")):
    """An object with encapsulated Pixel Data (PS3.5 §A.4); an archive has no business decoding it."""
    one = instance()
    head = one.data_set[: one.data_set.index(b"\xe0\x7f\x10\0OW")]
    pixels = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    for fragment in fragments:
        fragment += b"\0" * (len(fragment) % 2)
        pixels += b"\xfe\xff\x00\xe0" + len(fragment).to_bytes(4, "little") + fragment
    pixels += b"\xfe\xff\xdd\xe0\0\0\0\0"
    return instances.Instance(
        one.sop_class, one.sop_instance, transfer_syntax, head + pixels, one.study, one.series, one.elements
    )


@pytest.mark.item(52)
@pytest.mark.parametrize("transfer_syntax", NATIVE)
def test_native_transfer_syntaxes_are_stored_as_they_come(subject, transfer_syntax):
    one = instance(transfer_syntax, pixel_bytes=5000)
    assert status_of(subject, one) == 0
    comes_back(subject, one)


@pytest.mark.item(52)
@pytest.mark.parametrize("transfer_syntax", ENCAPSULATED)
def test_encapsulated_transfer_syntaxes_are_stored_as_they_come(subject, transfer_syntax):
    one = encapsulated(transfer_syntax)
    assert status_of(subject, one) == 0
    comes_back(subject, one)


@pytest.mark.item(52)
@pytest.mark.relaypacs
@pytest.mark.parametrize("transfer_syntax", ONLY_NEWER)
def test_rare_and_new_transfer_syntaxes_are_stored_as_they_come(subject, transfer_syntax):
    one = encapsulated(transfer_syntax)
    assert status_of(subject, one) == 0
    comes_back(subject, one)


@pytest.mark.item(52)
@pytest.mark.relaypacs
@pytest.mark.parametrize("transfer_syntax", ["1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"])
def test_deflated_references_are_stored_as_they_come(subject, transfer_syntax):
    deflated = instance("1.2.840.10008.1.2.1.99")
    one = instances.replace(deflated, transfer_syntax=transfer_syntax)
    assert status_of(subject, one) == 0
    comes_back(subject, one)


@pytest.mark.item(52)
def test_a_transfer_syntax_whose_encoding_is_unknown_is_not_accepted(subject):
    with RawAssociation(subject.address) as association:
        answer = association.associate(
            [(1, CT, ["1.2.3.4.5.6"]), (3, CT, ["1.2.840.10008.1.2.6.2"])], called=subject.ae_title
        )
        assert answer.results[1][0] == 4


@pytest.mark.item(52)
@pytest.mark.relaypacs
def test_a_deflated_object_needs_no_padding_byte(subject):
    """Senders differ on whether an odd deflate stream is padded (PS3.5 §A.5)."""
    ds = elements()
    for length in range(2):
        ds.SOPInstanceUID = instances.new_uid()
        ds.PatientComments = "x" * length
        plain = encode(ds)
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(plain) + deflate.flush()
        one = instances.Instance(
            CT, ds.SOPInstanceUID, "1.2.840.10008.1.2.1.99", data, ds.StudyInstanceUID, ds.SeriesInstanceUID
        )
        assert status_of(subject, one) == 0
        comes_back(subject, one)


# What is refused, and how (PS3.4 table B.2-1).


@pytest.mark.item(42)
def test_a_data_set_of_another_sop_class_gets_a900(subject):
    one = instance(SOPClassUID=MR)
    lying = instances.replace(one, sop_class=CT)
    assert status_of(subject, lying) == 0xA900
    is_absent(subject, one)


@pytest.mark.item(44)
def test_a_data_set_of_another_instance_gets_a900(subject):
    one = instance()
    assert status_of(subject, one, sop_instance=instances.new_uid()) in (0xA900, 0xB007)


@pytest.mark.item(43)
@pytest.mark.parametrize("missing", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_a_missing_identifier_cannot_be_understood(subject, missing):
    one = instance()
    ds = one.elements
    delattr(ds, missing)
    status = status_of(subject, one.with_data_set(encode(ds)))
    assert status >> 12 == 0xC or (missing == "SOPClassUID" and status == 0xA900), f"{status:04X}"


@pytest.mark.item(43)
@pytest.mark.parametrize("missing", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_an_empty_identifier_cannot_be_understood(subject, missing):
    one = instance()
    ds = one.elements
    setattr(ds, missing, "")
    assert status_of(subject, one.with_data_set(encode(ds))) >> 12 == 0xC


DAMAGES = {
    "empty": lambda data: b"",
    "noise": lambda data: bytes((n * 73 + 11) & 0xFF for n in range(2000)),
    "cut-in-a-header": lambda data: data[: data.index(b"\x10\0\x10\0PN") + 5],
    "cut-in-pixel-data": lambda data: data[:-7],
    "length-past-the-end": lambda data: (
        data.replace(b"\x20\0\x0d\0UI@\0", b"\x20\0\x0d\0UI\xf0\xff", 1) if b"\x20\0\x0d\0UI@\0" in data else data[:-2]
    ),
    "part-10-in-the-data-set": lambda data: bytes(128) + b"DICM" + data,
    "group-0002": lambda data: instances.explicit_element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0") + data,
}


@pytest.mark.item(43)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_set_cannot_be_understood(subject, damage):
    one = instance()
    status = status_of(subject, one.with_data_set(DAMAGES[damage](one.data_set)))
    assert status >> 12 == 0xC, f"{status:04X}"
    assert clients.echo(subject) == 0
    is_absent(subject, one)


@pytest.mark.item(43)
@pytest.mark.relaypacs
def test_bytes_of_another_transfer_syntax_cannot_be_understood(subject):
    one = instance()
    for claimed in (IMPLICIT_LE, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
        assert status_of(subject, instances.replace(one, transfer_syntax=claimed)) == 0xC000, claimed


@pytest.mark.item(47, 53)
def test_a_registered_class_that_is_not_storage_is_never_accepted(subject):
    directory = "1.2.840.10008.1.3.10"
    with RawAssociation(subject.address) as association:
        answer = association.associate([(1, CT, [EXPLICIT_LE]), (3, directory, [EXPLICIT_LE])], called=subject.ae_title)
        assert answer.results[3][0] == 3


@pytest.mark.item(49)
@pytest.mark.relaypacs
@pytest.mark.parametrize("uid", ["../../etc/cron.d/x", "/etc/passwd", "1.2\0.3", "1" * 65, "1..2", "1.2.3.x"])
def test_an_invalid_uid_in_the_command_gets_0117(subject, uid):
    one = instance()
    assert status_of(subject, one, sop_instance=uid) == 0x0117


@pytest.mark.item(43, 49)
@pytest.mark.relaypacs
def test_an_empty_uid_in_the_command_is_an_error(subject):
    assert status_of(subject, instance(), sop_instance="") in (0x0117, 0xC000)


@pytest.mark.item(50)
def test_the_same_object_twice_is_success_twice(subject):
    one = instance()
    assert [status_of(subject, one), status_of(subject, one)] == [0, 0]
    clients.indexed(subject, [one])
    assert len(clients.qido(subject, f"/studies/{one.study}/instances")) == 1


@pytest.mark.item(50)
@pytest.mark.relaypacs
def test_the_same_object_twice_is_held_once(subject):
    one = instance()
    for _ in range(3):
        assert status_of(subject, one) == 0
    clients.stow_all(subject, [one])
    assert subject.held()[one.sop_instance] == [one.sha256]


@pytest.mark.item(50)
@pytest.mark.relaypacs
def test_other_content_under_the_same_uid_never_overwrites(subject):
    """The stated policy: success, both kept, the second held as a conflict."""
    first = instance()
    second = first.with_data_set(
        encode(
            elements(
                SOPInstanceUID=first.sop_instance,
                StudyInstanceUID=first.study,
                SeriesInstanceUID=first.series,
                PatientID="SOMEONEELSE",
            )
        )
    )
    assert [status_of(subject, first), status_of(subject, second)] == [0, 0]
    assert sorted(subject.held()[first.sop_instance]) == sorted([first.sha256, second.sha256])
    comes_back(subject, first)


@pytest.mark.item(53)
@pytest.mark.relaypacs
def test_private_sop_classes_are_stored_as_configured(subject, make_subject):
    one = instance(SOPClassUID="1.2.276.0.7230010.3.1.0.77")
    assert status_of(subject, one) == 0
    comes_back(subject, one)
    strict = make_subject({"dicom": {"unknown_sop_classes": "refuse"}})
    with RawAssociation(strict.address) as association:
        answer = association.associate(
            [(1, one.sop_class, [EXPLICIT_LE]), (3, CT, [EXPLICIT_LE])], called=strict.ae_title
        )
        assert (answer.results[1][0], answer.results[3][0]) == (3, 0)


@pytest.mark.item(45, 46)
def test_nothing_is_coerced_or_discarded_so_no_warning_is_given(subject):
    """B000 and B006 would say that elements were changed or lost; 0000 says that none was."""
    one = instance(PatientID="  spaces kept ", PatientName="lower^case", StudyDate="", AccessionNumber="")
    assert status_of(subject, one) == 0
    comes_back(subject, one)


@pytest.mark.item(54)
@pytest.mark.relaypacs
def test_a_c_store_on_behalf_of_a_c_move_is_taken(subject):
    """Keeping the Move Originator on our own sub-operations belongs to C-MOVE, which comes later."""
    one = instance()
    association, ids = clients.associate(subject, [one])
    with association:
        reply = association.store(
            1,
            one.sop_class,
            one.sop_instance,
            one.data_set,
            MoveOriginatorApplicationEntityTitle="MOVER",
            MoveOriginatorMessageID=17,
        )
        assert reply.status == 0


@pytest.mark.item(40)
@pytest.mark.relaypacs
def test_an_acknowledged_object_survives_a_kill_right_after(make_subject):
    node = make_subject()
    many = instances.study(10)
    clients.store_all(node, many)
    node.kill()
    node.start()
    held = node.held()
    assert all(held[one.sop_instance] == [one.sha256] for one in many)


@pytest.mark.item(51)
@pytest.mark.parametrize("size", [0, 100, 70_000, 1_100_000, 9_000_000])
def test_objects_of_all_sizes_come_back(subject, size):
    one = instance(pixel_bytes=size)
    assert store(subject, [one])[0].status == 0
    comes_back(subject, one)


@pytest.mark.item(51)
def test_the_index_follows_by_itself(subject):
    many = instances.study(30)
    clients.store_all(subject, many)
    path = f"/studies/{many[0].study}/instances"
    wait_until(lambda: len(clients.qido(subject, path, {"limit": 100})) == 30, "all 30 are found")
