"""One SOP Instance UID in several transfer syntaxes: the same object is a duplicate, another one a conflict.

Variants are written by DCMTK's dcmconv, which shares code with nobody here, or by hand.
"""

import contextlib
import itertools
import subprocess

import pydicom
import pytest
from pydicom.sequence import Sequence

import clients
import instances
from instances import elements, instance, of, replace, split_part10
from pdu import EXPLICIT_LE, IMPLICIT_LE, Closed
from peers import Archive
from waiting import wait_until

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]

BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.70"
WRITTEN_WITH = {EXPLICIT_LE: ["+te"], IMPLICIT_LE: ["+ti"], BIG_ENDIAN: ["+tb"], DEFLATED: ["+td"]}
PAIRS = list(itertools.permutations(WRITTEN_WITH, 2))


def rich(**given):
    """An object with sequences in sequences, private elements, and numbers of every width."""
    ds = elements(PatientName="Ünicode^Ŋame", **given)
    block = ds.private_block(0x0009, "CONFORMANCE", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "US", 513)
    block.add_new(0x03, "OB", bytes(range(64)))
    block.add_new(0x04, "FD", 3.25)
    item, inner = pydicom.Dataset(), pydicom.Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "2", "99TEST", "within"
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "nested"
    item.ReferencedFrameNumber = [1, 2]
    item.EquivalentCodeSequence = Sequence([inner])
    ds.ProcedureCodeSequence = Sequence([item, pydicom.Dataset()])
    ds.FrameIncrementPointer = 0x00181063
    ds.RealWorldValueFirstValueMapped = 7
    return ds


def written(one, transfer_syntax, folder, *options):
    """The same object in another transfer syntax, as dcmconv writes it."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(one.part10)
    subprocess.run(["dcmconv", *WRITTEN_WITH[transfer_syntax], *options, source, target], check=True, timeout=30)
    _, data_set = split_part10(target.read_bytes())
    return replace(one, transfer_syntax=transfer_syntax, data_set=data_set)


def entries(node, one):
    return [line for line in node.lines("spool", "list") if line["sop_instance_uid"] == one.sop_instance]


def settled(node, one):
    """The held entries, once every conflict among them was looked at."""

    def looked_at():
        held = entries(node, one)
        return held if all(entry["finding"] or not entry["conflict"] for entry in held) else None

    return wait_until(looked_at, "conflicts are compared", every=0.1)


def is_held_alone(node, first):
    (entry,) = settled(node, first)
    assert (entry["data_set_sha256"], entry["conflict"]) == (first.sha256, False)
    found_once(node, first)


def is_a_conflict(node, first, second, finding):
    kept, held = settled(node, first)
    assert (kept["data_set_sha256"], kept["conflict"]) == (first.sha256, False)
    assert (held["data_set_sha256"], held["conflict"]) == (second.sha256, True)
    assert finding in held["finding"]
    assert held["deliveries"] == []
    found_once(node, first)


def found_once(node, first):
    """Queries show one instance, retrieval gives the first object."""
    clients.indexed(node, [first])
    (match,) = clients.qido(node, f"/studies/{first.study}/instances", {"includefield": "all"})
    assert clients.values(match, "00080018") == [first.sop_instance]
    keys = {"StudyInstanceUID": first.study, "SeriesInstanceUID": first.series, "SOPInstanceUID": ""}
    (match,) = clients.found(node, clients.query("IMAGE", **keys))
    assert match.SOPInstanceUID == first.sop_instance
    (file,) = clients.retrieve(node, first.path)
    assert split_part10(file)[1] == first.data_set


@pytest.mark.item(50)
@pytest.mark.parametrize("first, second", PAIRS)
def test_the_same_object_in_another_transfer_syntax_is_a_duplicate(subject, tmp_path, first, second):
    source = of(rich())
    one, other = (written(source, syntax, tmp_path) for syntax in (first, second))
    clients.store_all(subject, [one])
    clients.store_all(subject, [other])
    is_held_alone(subject, one)


@pytest.mark.item(50)
def test_lengths_and_group_lengths_make_no_other_object(subject, tmp_path):
    one = of(rich())
    variants = [
        written(one, syntax, tmp_path, *options)
        for syntax in (IMPLICIT_LE, BIG_ENDIAN)
        for options in (["+g", "+e"], ["-g", "-e"])
    ]
    clients.store_all(subject, [one])
    for variant in variants:
        clients.store_all(subject, [variant])
    is_held_alone(subject, one)


@pytest.mark.item(50)
def test_large_duplicates_by_either_door_leave_one_object(subject, tmp_path):
    one = instance(pixel_bytes=6_000_000)
    clients.store_all(subject, [one])
    for syntax in (IMPLICIT_LE, BIG_ENDIAN, DEFLATED):
        other = written(one, syntax, tmp_path)
        clients.stow_all(subject, [other])
    is_held_alone(subject, one)
    assert len(list((subject.folder / "data" / "spool" / "large").glob("*"))) <= len(subject.held())


@pytest.mark.item(50)
@pytest.mark.parametrize("syntax", [IMPLICIT_LE, BIG_ENDIAN, DEFLATED])
def test_one_changed_pixel_is_a_conflict(subject, tmp_path, syntax):
    ds = rich()
    one = of(ds)
    pixels = bytearray(ds.PixelData)
    pixels[77] ^= 1
    ds.PixelData = bytes(pixels)
    other = written(of(ds), syntax, tmp_path)
    clients.store_all(subject, [one])
    clients.store_all(subject, [other])
    is_a_conflict(subject, one, other, "differs at (7FE0,0010)")


@pytest.mark.item(50)
@pytest.mark.parametrize("syntax", [IMPLICIT_LE, BIG_ENDIAN, DEFLATED])
def test_one_changed_element_deep_in_a_sequence_is_a_conflict(subject, tmp_path, syntax):
    ds = rich()
    one = of(ds)
    ds.ProcedureCodeSequence[0].EquivalentCodeSequence[0].CodeMeaning = "withim"
    other = written(of(ds), syntax, tmp_path)
    clients.store_all(subject, [one])
    clients.store_all(subject, [other])
    is_a_conflict(subject, one, other, "differs at (0008,0104)")


@pytest.mark.item(50)
@pytest.mark.parametrize("first", [EXPLICIT_LE, IMPLICIT_LE, DEFLATED])
def test_encapsulated_pixels_beside_native_ones_are_a_conflict(subject, tmp_path, first):
    """Whether they are the same image is not decided without decoding."""
    source = of(rich())
    one = written(source, first, tmp_path)
    head = source.data_set[: source.data_set.index(b"\xe0\x7f\x10\0OW")]
    pixels = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    pixels += b"\xfe\xff\x00\xe0\x04\0\0\0\xff\xd8\xff\xd9" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    other = replace(source, transfer_syntax=JPEG, data_set=head + pixels)
    clients.store_all(subject, [one])
    clients.store_all(subject, [other])
    is_a_conflict(subject, one, other, "undecidable")


@pytest.mark.item(40, 50)
def test_a_kill_before_the_duplicate_is_freed_loses_nothing(make_subject, tmp_path):
    one = of(rich())
    other = written(one, IMPLICIT_LE, tmp_path)
    node = make_subject(start=False)
    node.start(RELAYPACS_FAILPOINT="compared@1")
    clients.store_all(node, [one])
    # The node may be gone before the association is released.
    with contextlib.suppress(Closed):
        clients.store_all(node, [other])
    wait_until(node.died, "the node dies before it writes what it found")
    node.environment = {}
    node.start()
    is_held_alone(node, one)
    node.kill()
    node.start()
    is_held_alone(node, one)


@pytest.mark.item(50)
def test_a_conflict_and_what_was_found_outlive_a_kill(make_subject, tmp_path):
    ds = rich()
    one = of(ds)
    ds.PatientSex = "F"
    other = written(of(ds), IMPLICIT_LE, tmp_path)
    node = make_subject()
    clients.store_all(node, [one])
    clients.store_all(node, [other])
    is_a_conflict(node, one, other, "differs at (0010,0040)")
    node.kill()
    node.start()
    is_a_conflict(node, one, other, "differs at (0010,0040)")
    assert 'conflicts_compared_total{finding=' not in node.metrics(), "it was compared once"


@pytest.mark.item(50)
def test_neither_duplicate_nor_conflict_is_sent_on(make_subject, tmp_path):
    with Archive() as archive:
        node = make_subject({"destinations": [archive.destination()]})
        ds = rich()
        one = of(ds)
        same = written(one, IMPLICIT_LE, tmp_path)
        ds.PatientSex = "F"
        different = written(of(ds), DEFLATED, tmp_path)
        for each in (one, same, different):
            clients.store_all(node, [each])
        is_a_conflict_at_last = lambda: len(settled(node, one)) == 2  # noqa: E731
        wait_until(is_a_conflict_at_last, "one of the two is freed", every=0.1)
        last = instances.instance()
        clients.store_all(node, [last])
        wait_until(lambda: last.sop_instance in archive.uids(), "what came last arrives")
        sent = [received.sha256 for received in archive.received]
        assert one.sha256 in sent
        assert not {same.sha256, different.sha256} & set(sent)
