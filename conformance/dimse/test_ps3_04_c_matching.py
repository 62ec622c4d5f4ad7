"""PS3.4 §C.2.2.2: what matches. The same rules serve QIDO (dicomweb/test_ps3_18_10_6_search.py)."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import clients
import corpus
import instances
import pdu
from clients import STUDY_ROOT, find, found, query
from corpus import names_of, uid
from pdu import IMPLICIT_LE, RawAssociation

pytestmark = pytest.mark.sql
ALL = sorted(corpus.STUDIES)


@pytest.fixture(scope="module", autouse=True)
def loaded(subject):
    everything = corpus.all_instances()
    clients.store_all(subject, everything)
    clients.indexed(subject, everything)


def studies(subject, **keys):
    """The corpus' names of the studies that match."""
    return names_of(found(subject, query("STUDY", **{"StudyInstanceUID": None} | keys)))


@pytest.mark.item(59)
def test_a_single_value_is_case_sensitive(subject):
    assert studies(subject, PatientID="Q-001") == ["abdomen", "brain"]
    assert studies(subject, PatientID="q-001") == ["upper"]
    assert studies(subject, AccessionNumber="acc-1001") == ["upper"]


@pytest.mark.item(59)
def test_a_name_is_matched_without_regard_to_case_or_with_it_but_consistently(subject):
    """PS3.4 §C.2.2.2.1 leaves it open for PN."""
    exact = studies(subject, PatientName="SMITH^JOHN")
    assert exact == ["upper"]
    assert studies(subject, PatientName="smith^john") == studies(subject, PatientName="Smith^John")
    assert studies(subject, PatientName="smith*") == studies(subject, PatientName="smith^john")


@pytest.mark.item(60)
def test_a_zero_length_key_matches_everything(subject):
    assert studies(subject, PatientID=None, StudyDate=None, PatientName=None) == ALL


@pytest.mark.item(61)
@pytest.mark.parametrize(
    "keys, expected",
    [
        (dict(PatientName="Mül*"), ["abdomen", "brain"]),
        (dict(PatientName="*Tarou*"), ["kanji"]),
        (dict(PatientName="Under?score*"), ["decoy", "literal"]),
        (dict(AccessionNumber="ACC-?001"), ["accents", "brain", "cyrillic", "hanzi", "kanji"]),
        (dict(AccessionNumber="*1002"), ["abdomen"]),
        (dict(AccessionNumber="ACC*1"), ["accents", "brain", "cyrillic", "decoy", "hanzi", "kanji", "literal"]),
        (dict(StudyDescription="*"), ALL),
        (dict(StudyDescription="**Brain**"), ["brain"]),
        (dict(PatientID="??????????"), []),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_star_matches_any_text_and_a_question_mark_one_character(subject, keys, expected):
    assert studies(subject, SpecificCharacterSet="ISO_IR 192", **keys) == expected


@pytest.mark.item(61)
@pytest.mark.parametrize(
    "keys",
    [
        dict(PatientID="Q_006%[x]"),
        dict(PatientID="Q_0*[x]"),
        dict(PatientID="Q_006%*"),
        dict(PatientName="Under_*"),
        dict(AccessionNumber="ACC_*"),
        dict(AccessionNumber="ACC_600?"),
        dict(StudyDescription="100% *"),
        dict(StudyDescription="*[a-z]*"),
        dict(StudyDescription="*a_b*"),
        dict(StudyDescription="*'q'"),
    ],
    ids=str,
)
def test_what_sql_holds_special_is_literal(subject, keys):
    assert studies(subject, **keys) == ["literal"]


@pytest.mark.item(61)
@pytest.mark.parametrize("value", ["' OR '1'='1", "'; DROP TABLE study; --", "\\%", "%", "_"])
def test_sql_in_a_key_is_only_text(subject, value):
    answers = find(subject, query("STUDY", PatientName=value.replace("\\", ""), StudyInstanceUID=None))
    assert answers[-1][0] == 0 and len(answers) == 1
    assert studies(subject, PatientID="Q-002") == ["kanji"]


@pytest.mark.item(62)
@pytest.mark.parametrize(
    "keys",
    [
        dict(StudyInstanceUID="2.25.*"),
        dict(StudyInstanceUID="?.25.1"),
        dict(StudyDate="2024*"),
        dict(StudyDate="202401??"),
        dict(StudyTime="08*"),
    ],
    ids=str,
)
def test_wildcards_mean_nothing_in_uids_dates_and_times(subject, keys):
    """PS3.4 §C.2.2.2.4: not for DA, TM, UI, IS. Such a value is an error, or matches nothing."""
    answers = find(subject, query("STUDY", **{"StudyInstanceUID": None} | keys))
    status = answers[-1][0]
    assert len(answers) == 1 and (status == 0 or status == 0xA900 or status >> 12 == 0xC), answers


@pytest.mark.item(63)
def test_a_list_of_uids_matches_each(subject):
    wanted = [uid("kanji"), uid("brain"), instances.new_uid()]
    assert studies(subject, StudyInstanceUID=wanted) == ["brain", "kanji"]


@pytest.mark.item(63)
def test_a_list_of_uids_matches_at_the_image_level(subject):
    wanted = [uid("brain", "axial", 1), uid("brain", "axial", 3)]
    matches = found(
        subject,
        query("IMAGE", StudyInstanceUID=uid("brain"), SeriesInstanceUID=uid("brain", "axial"), SOPInstanceUID=wanted),
    )
    assert sorted(match.SOPInstanceUID for match in matches) == sorted(wanted)


@pytest.mark.item(64)
@pytest.mark.parametrize(
    "value, expected",
    [
        ("20240110", ["accents", "brain"]),
        ("20240101-20240131", ["accents", "brain"]),
        ("20240110-20240305", ["abdomen", "accents", "brain"]),
        ("20240305-", ["abdomen"]),
        ("-20191231", ["upper"]),
        ("-20190101", ["upper"]),
        ("20250101-", []),
        ("20240301-20240101", []),
    ],
)
def test_date_ranges_are_inclusive_and_empty_dates_never_match(subject, value, expected):
    assert studies(subject, StudyDate=value) == expected


@pytest.mark.item(65)
@pytest.mark.parametrize(
    "value, expected",
    [
        ("083000.25", ["brain"]),
        ("0830-0830", ["accents", "brain"]),
        ("083000-083000.5", ["brain"]),
        ("083000.250-083001", ["accents", "brain"]),
        ("08-09", ["abdomen", "accents", "brain"]),
        ("0930", ["abdomen"]),
        ("2359-", ["hanzi"]),
        ("-000000", ["literal"]),
        ("10-1015", ["kanji", "upper"]),
    ],
)
def test_time_ranges_count_what_is_left_out(subject, value, expected):
    """PS3.4 §C.2.2.2.5: a shorter time stands for all the times that it begins."""
    assert studies(subject, StudyTime=value) == expected


@pytest.mark.item(66)
@pytest.mark.relaypacs
@pytest.mark.parametrize(
    "value, expected",
    [
        ("20240110013000+0100-20240110015959+0100", [1]),
        ("20240110003000+0000-20240110003100+0000", [1]),
        ("20240110012000+0000-", [2, 3]),
        ("-20240110022959+0100", [1]),
        # Without an offset a moment is one of UTC.
        ("2024011001-2024011001", [2]),
        ("20230101-20230201", []),
    ],
)
def test_date_time_ranges_heed_the_zone(subject, value, expected):
    matches = found(
        subject,
        query(
            "IMAGE",
            StudyInstanceUID=uid("brain"),
            SeriesInstanceUID=uid("brain", "axial"),
            AcquisitionDateTime=value,
            InstanceNumber=None,
        ),
    )
    assert sorted(int(match.InstanceNumber) for match in matches) == expected


@pytest.mark.item(67)
def test_date_and_time_are_matched_apart_when_not_negotiated_otherwise(subject):
    """PS3.4 §C.2.2.2.5.4: 5 March 09:30 is not between 10 January 10:00 and 1 April 12:00 taken apart."""
    keys = dict(StudyDate="20240109-20240401", StudyTime="0900-1200")
    assert studies(subject, **keys) == ["abdomen"]


def sequence_item(**keys):
    item = Dataset()
    for keyword, value in keys.items():
        setattr(item, keyword, value)
    return item


@pytest.mark.item(68)
@pytest.mark.parametrize(
    "items, expected",
    [
        ([sequence_item(ScheduledProcedureStepID="SPS1")], {"axial"}),
        ([sequence_item(ScheduledProcedureStepID="SPS?")], {"axial", "sagittal"}),
        ([sequence_item(ScheduledProcedureStepID="SPS1", RequestedProcedureID="RSPS2")], set()),
        ([sequence_item(ScheduledProcedureStepID="")], {"axial", "sagittal"}),
        ([], {"axial", "sagittal"}),
    ],
    ids=["one", "wildcard", "two-keys-in-one-item", "empty-key", "empty-sequence"],
)
def test_a_sequence_matches_when_one_item_matches_all_its_keys(subject, items, expected):
    """PS3.4 §C.2.2.2.6. An unsupported optional key is passed over, and said to be (FF01)."""
    keys = query("SERIES", StudyInstanceUID=uid("brain"), SeriesInstanceUID=None)
    keys.RequestAttributesSequence = Sequence(items)
    answers = find(subject, keys)
    assert answers[-1][0] == 0
    statuses = {status for status, _ in answers[:-1]}
    everything = {"axial", "sagittal"}
    seen = {name for name in everything for _, match in answers[:-1] if match.SeriesInstanceUID == uid("brain", name)}
    assert seen == expected or (statuses == {0xFF01} and seen == everything), (statuses, seen)


@pytest.mark.item(69)
@pytest.mark.parametrize(
    "value, expected", [("AXIAL", [1, 3]), ("LOCALIZER", [2]), ("PRIMARY", [1, 2, 3]), ("AXI", [])]
)
def test_any_of_several_values_matches(subject, value, expected):
    """PS3.4 §C.2.2.3 (multiple values): Image Type has three."""
    matches = found(
        subject,
        query(
            "IMAGE",
            StudyInstanceUID=uid("brain"),
            SeriesInstanceUID=uid("brain", "axial"),
            ImageType=value,
            InstanceNumber=None,
        ),
    )
    assert sorted(int(match.InstanceNumber) for match in matches) == expected


@pytest.mark.item(70)
@pytest.mark.parametrize(
    "value, expected",
    [
        ("Yamada^Tarou", ["kanji"]),
        ("Yamada^Tarou*", ["kanji"]),
        ("Yamada^Tarou^^^", ["kanji"]),
        ("Yamada^Tarou==", ["kanji"]),
        ("Yamada^Tarou ", ["kanji"]),
        ("Yamada*=山田*", ["kanji"]),
        ("=山田^太郎", ["kanji"]),
        ("*=*=やまだ*", ["kanji"]),
        ("*=王*", ["hanzi"]),
        ("Yamada^Taro", []),
        ("Tarou^Yamada", []),
    ],
)
def test_name_components_and_groups(subject, value, expected):
    assert studies(subject, SpecificCharacterSet="ISO_IR 192", PatientName=value) == expected


@pytest.mark.item(71)
@pytest.mark.parametrize(
    "charset, encoding, name, expected",
    [
        ("ISO_IR 100", "latin-1", "Müller^Jürgen", ["abdomen", "brain"]),
        ("ISO_IR 192", "utf-8", "Müller^Jürgen", ["abdomen", "brain"]),
        ("ISO_IR 100", "latin-1", "Buc^Jérôme", ["accents"]),
        ("ISO_IR 144", "iso8859-5", "Люкceмбypг", ["cyrillic"]),
        ("ISO_IR 192", "utf-8", "Люкceмбypг", ["cyrillic"]),
        ("GB18030", "gb18030", "Wang^XiaoDong=王^小东", ["hanzi"]),
    ],
)
def test_the_querys_character_set_may_differ_from_the_objects(subject, charset, encoding, name, expected):
    keys = query("STUDY", SpecificCharacterSet=charset, StudyInstanceUID=None)
    keys.PatientName = name
    encoded = instances.encode(keys, IMPLICIT_LE)
    assert name.encode(encoding) in encoded
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        replies = association.find(1, STUDY_ROOT, encoded)
    assert replies[-1].status == 0
    known = {uid(study): study for study in corpus.STUDIES}
    hits = [study for uid_, study in known.items() for reply in replies[:-1] if uid_.encode() in reply.data_set]
    assert sorted(hits) == expected


@pytest.mark.item(71)
@pytest.mark.relaypacs
def test_an_iso_2022_query_finds_the_kanji_name(subject):
    keys = query("STUDY", StudyInstanceUID=None)
    keys.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    keys.PatientName = "Yamada^Tarou=山田^太郎"
    assert names_of(found(subject, keys)) == ["kanji"]


@pytest.mark.item(59)
def test_keys_of_different_entities_are_joined_by_and(subject):
    assert studies(subject, PatientID="Q-001", StudyDate="20240305", AccessionNumber="ACC-1002") == ["abdomen"]
    assert studies(subject, PatientID="Q-001", StudyDate="20240305", AccessionNumber="ACC-1001") == []


@pytest.mark.item(61)
@pytest.mark.relaypacs
def test_a_megabyte_of_wildcards_is_refused(subject):
    keys = instances.encode(query("STUDY", PatientID="*?" * 500_000, StudyInstanceUID=None), IMPLICIT_LE)
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        (reply,) = association.find(1, STUDY_ROOT, keys)
        assert reply.status == 0xA900
        assert reply.command["CommandDataSetType"] == pdu.NO_DATA_SET


def test_a_value_of_control_characters_is_no_universal_key(subject):
    """PS3.5 §6.2: only UIDs are padded with NUL. A status, or nothing; never everybody."""
    identifier = query("STUDY", StudyInstanceUID=None)
    for value in (b"\0\0", b"*\0\0\x07"):
        identifier.add_new(0x00100010, "UN", value)
        answers = find(subject, identifier)
        assert [answer for status, answer in answers if status in (0xFF00, 0xFF01)] == [], value
