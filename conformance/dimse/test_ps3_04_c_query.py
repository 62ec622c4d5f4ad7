"""PS3.4 Annex C: C-FIND. Levels, identifiers, answers, statuses; what matches is in test_ps3_04_c_matching.py."""

import time

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE

import clients
import corpus
import instances
import pdu
from clients import PATIENT_ROOT, STUDY_ROOT, find, found, query
from corpus import names_of, uid
from pdu import IMPLICIT_LE, RawAssociation

pytestmark = pytest.mark.sql
MANDATORY = {"QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability", "SpecificCharacterSet"}
MANDATORY |= {"StorageMediaFileSetID", "StorageMediaFileSetUID", "TimezoneOffsetFromUTC"}


@pytest.fixture(scope="module", autouse=True)
def loaded(subject):
    everything = corpus.all_instances()
    clients.store_all(subject, everything)
    clients.indexed(subject, everything)


def failed(answers):
    """The one answer of a query that must fail."""
    assert len(answers) == 1, answers
    return answers[0][0]


def is_identifier_error(status):
    return status == 0xA900 or status >> 12 == 0xC


# Levels and unique keys (PS3.4 §C.4.1.2.1, §C.6)


@pytest.mark.item(55)
@pytest.mark.parametrize(
    "level, above, expected",
    [
        ("PATIENT", {}, 1),
        ("STUDY", {}, 2),
        ("SERIES", {"StudyInstanceUID": uid("brain")}, 2),
        ("IMAGE", {"StudyInstanceUID": uid("brain"), "SeriesInstanceUID": uid("brain", "axial")}, 3),
    ],
)
def test_patient_root_answers_at_each_level(subject, level, above, expected):
    unique = {
        "PATIENT": "PatientID",
        "STUDY": "StudyInstanceUID",
        "SERIES": "SeriesInstanceUID",
        "IMAGE": "SOPInstanceUID",
    }
    keys = {unique[level]: None} | {"PatientID": "Q-001"} | above
    matches = found(subject, query(level, **keys), PATIENT_ROOT)
    assert len(matches) == expected
    assert {match.QueryRetrieveLevel for match in matches} == {level}
    assert len({match[unique[level]].value for match in matches}) == expected


@pytest.mark.item(55)
@pytest.mark.parametrize(
    "level, above, expected",
    [
        ("STUDY", {"PatientID": "Q-001"}, 2),
        ("SERIES", {"StudyInstanceUID": uid("brain")}, 2),
        ("IMAGE", {"StudyInstanceUID": uid("brain"), "SeriesInstanceUID": uid("brain", "sagittal")}, 2),
    ],
)
def test_study_root_answers_at_each_level(subject, level, above, expected):
    assert len(found(subject, query(level, **{"SOPInstanceUID": None} | above))) == expected


@pytest.mark.item(55)
def test_study_root_has_no_patient_level(subject):
    assert is_identifier_error(failed(find(subject, query("PATIENT", PatientID="Q-001"))))


@pytest.mark.item(56)
@pytest.mark.parametrize("level", [None, "", "INSTANCE", "study ", "STUDY\\SERIES"])
def test_a_bad_or_missing_level_is_an_error(subject, level):
    assert is_identifier_error(failed(find(subject, query(level, StudyInstanceUID=None))))


@pytest.mark.item(57)
@pytest.mark.parametrize(
    "level, keys",
    [
        ("SERIES", {}),
        ("IMAGE", {"StudyInstanceUID": uid("brain")}),
        ("IMAGE", {"SeriesInstanceUID": uid("brain", "axial")}),
    ],
)
def test_a_missing_unique_key_above_the_level_is_an_error(subject, level, keys):
    """Hierarchical search (PS3.4 §C.4.1.3.1.1); relational queries were not negotiated."""
    assert is_identifier_error(failed(find(subject, query(level, **keys))))


@pytest.mark.item(57)
def test_patient_root_wants_the_patient_id_below_the_patient(subject):
    assert is_identifier_error(failed(find(subject, query("STUDY", StudyInstanceUID=None), PATIENT_ROOT)))


@pytest.mark.item(57)
@pytest.mark.parametrize("value", ["Q-00*", ""])
def test_a_unique_key_above_the_level_has_a_single_value(subject, value):
    assert is_identifier_error(failed(find(subject, query("STUDY", PatientID=value), PATIENT_ROOT)))


@pytest.mark.item(58)
def test_an_empty_identifier_is_an_error(subject):
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        (reply,) = association.find(1, STUDY_ROOT, b"")
        assert is_identifier_error(reply.status)


@pytest.mark.item(58)
@pytest.mark.parametrize("damage", [b"\x08", b"\x08\0\x52\0\xff\xff\xff\x7fSTUDY ", b"\x08\0\x52\0\x06\0\0\0STU"])
def test_a_damaged_identifier_is_an_error(subject, damage):
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        reply = association.find(1, STUDY_ROOT, damage)[-1]
        assert is_identifier_error(reply.status)
    assert clients.echo(subject) == 0


# Answers (PS3.4 §C.4.1.1.3)


@pytest.mark.item(73)
def test_an_answer_holds_what_was_asked_for_and_what_it_must(subject):
    (match,) = found(subject, query("STUDY", StudyInstanceUID=uid("brain"), AccessionNumber=None, PatientName=None))
    asked = {"StudyInstanceUID", "AccessionNumber", "PatientName"}
    present = {element.keyword for element in match}
    assert asked <= present
    assert present <= asked | MANDATORY, present - asked - MANDATORY
    assert match.AccessionNumber == "ACC-1001"


@pytest.mark.item(73)
def test_an_answer_says_where_the_object_can_be_retrieved(subject):
    (match,) = found(subject, query("STUDY", StudyInstanceUID=uid("brain")))
    assert match.get("RetrieveAETitle") == subject.ae_title or "StorageMediaFileSetID" in match
    assert match.get("InstanceAvailability", "ONLINE") == "ONLINE"


@pytest.mark.item(74)
def test_an_unsupported_optional_key_is_told_and_returned_empty(subject):
    """PS3.4 §C.4.1.1.4 and §C.2.2.1.3."""
    keys = query("STUDY", StudyInstanceUID=uid("brain"), InsurancePlanIdentification=None)
    keys.VisitComments = "anything"
    answers = find(subject, keys)
    assert [status for status, _ in answers] == [0xFF01, 0x0000]
    match = answers[0][1]
    assert "VisitComments" in match and not match.VisitComments


@pytest.mark.item(74)
def test_supported_keys_alone_are_answered_with_ff00(subject):
    answers = find(subject, query("STUDY", StudyInstanceUID=uid("brain"), PatientID=None, StudyDate=None))
    assert [status for status, _ in answers] == [0xFF00, 0x0000]


@pytest.mark.item(74)
def test_a_value_that_the_object_lacks_is_returned_empty(subject):
    (match,) = found(subject, query("STUDY", StudyInstanceUID=uid("undated"), StudyDate=None, AccessionNumber=None))
    assert match.StudyDate == "" and match.AccessionNumber == ""


@pytest.mark.item(75)
def test_computed_attributes_are_exact(subject):
    (match,) = found(
        subject,
        query(
            "STUDY",
            StudyInstanceUID=uid("brain"),
            ModalitiesInStudy=None,
            SOPClassesInStudy=None,
            NumberOfStudyRelatedSeries=None,
            NumberOfStudyRelatedInstances=None,
            NumberOfPatientRelatedStudies=None,
        ),
    )
    assert sorted(match.ModalitiesInStudy) == ["CT", "MR"]
    assert sorted(match.SOPClassesInStudy) == sorted([corpus.CT, corpus.MR])
    assert (match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == (2, 5)
    series = found(
        subject,
        query(
            "SERIES",
            StudyInstanceUID=uid("brain"),
            SeriesInstanceUID=None,
            NumberOfSeriesRelatedInstances=None,
        ),
    )
    counts = {str(one.SeriesInstanceUID): one.NumberOfSeriesRelatedInstances for one in series}
    assert counts == {uid("brain", "axial"): 3, uid("brain", "sagittal"): 2}


@pytest.mark.item(75)
def test_a_patients_counts_are_exact(subject):
    (match,) = found(
        subject,
        query(
            "PATIENT",
            PatientID="Q-001",
            NumberOfPatientRelatedStudies=None,
            NumberOfPatientRelatedSeries=None,
            NumberOfPatientRelatedInstances=None,
        ),
        PATIENT_ROOT,
    )
    assert (match.NumberOfPatientRelatedStudies, match.NumberOfPatientRelatedSeries) == (2, 3)
    assert match.NumberOfPatientRelatedInstances == 6


@pytest.mark.item(75)
def test_modalities_in_study_is_matched(subject):
    matches = found(subject, query("STUDY", ModalitiesInStudy="MR", PatientID="Q-*", StudyInstanceUID=None))
    assert names_of(matches) == ["brain", "hanzi", "kanji"]


@pytest.mark.item(76)
def test_the_final_answer_has_no_data_set(subject):
    for patient in ("Q-001", "NOBODY"):
        keys = instances.encode(query("STUDY", PatientID=patient), IMPLICIT_LE)
        with RawAssociation(subject.address) as association:
            association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
            replies = association.find(1, STUDY_ROOT, keys)
        assert replies[-1].status == 0 and replies[-1].data_set is None
        assert replies[-1].command["CommandDataSetType"] == pdu.NO_DATA_SET
        assert all(reply.data_set for reply in replies[:-1])


@pytest.mark.item(80)
def test_a_patient_with_two_studies_is_one_patient(subject):
    matches = found(subject, query("PATIENT", PatientID="Q-001", PatientName=None), PATIENT_ROOT)
    assert len(matches) == 1


@pytest.mark.item(80)
def test_every_patient_is_told_once(subject):
    matches = found(subject, query("PATIENT", PatientID="Q*"), PATIENT_ROOT)
    ids = sorted(match.PatientID for match in matches)
    assert ids == sorted({study["PatientID"] for study in corpus.STUDIES.values()} - {"q-001"})


@pytest.mark.item(81)
def test_group_lengths_in_an_identifier_are_passed_over(subject):
    keys = instances.encode(query("STUDY", StudyInstanceUID=uid("brain"), PatientID=None), IMPLICIT_LE)
    begin = keys.index(b"\x08\0\x52\0")
    length = b"\x08\0\0\0\4\0\0\0" + len(keys).to_bytes(4, "little")
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        replies = association.find(1, STUDY_ROOT, keys[:begin] + length + keys[begin:])
    assert [reply.status & 0xFFFE for reply in replies] == [0xFF00, 0x0000]
    answer = dcmread(DicomBytesIO(replies[0].data_set), force=True, specific_tags=None)
    assert not [element for element in answer if element.tag.element == 0], "a group length came back"


@pytest.mark.item(81)
def test_private_keys_in_an_identifier_do_not_disturb(subject):
    keys = query("STUDY", StudyInstanceUID=uid("brain"))
    keys.private_block(0x0009, "CONFORMANCE", create=True).add_new(0x01, "LO", "x")
    answers = find(subject, keys)
    assert [status & 0xFFFE for status, _ in answers] == [0xFF00, 0x0000]


@pytest.mark.item(72)
def test_names_come_back_whole_in_their_character_set(subject):
    expected = {
        "brain": "Müller^Jürgen",
        "kanji": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "hanzi": "Wang^XiaoDong=王^小东",
        "accents": "Buc^Jérôme",
        "cyrillic": "Люкceмбypг",
    }
    for study, name in expected.items():
        (match,) = found(subject, query("STUDY", StudyInstanceUID=uid(study), PatientName=None))
        match.decode()
        assert str(match.PatientName) == name
        assert "SpecificCharacterSet" in match


@pytest.mark.item(72)
def test_an_answer_in_ascii_needs_no_character_set_but_may_have_one(subject):
    (match,) = found(subject, query("STUDY", StudyInstanceUID=uid("upper"), PatientName=None))
    assert str(match.PatientName) == "SMITH^JOHN"


# Many answers (PS3.4 §C.4.1.3.2)


@pytest.fixture(scope="module")
def crowd(subject):
    """600 studies with 8 KB to tell about each: more than sockets buffer."""
    many = [
        instances.instance(PatientID="CROWD", PatientComments="x" * 8000, StudyID=str(number)) for number in range(600)
    ]
    clients.store_all(subject, many)
    clients.indexed(subject, many[-1:])
    return many


@pytest.mark.item(77)
def test_a_cancel_ends_a_running_query_within_a_second(subject, crowd):
    keys = instances.encode(query("STUDY", PatientID="CROWD", PatientComments=None, StudyInstanceUID=None), IMPLICIT_LE)
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        association.begin_find(1, STUDY_ROOT, keys, message_id=3)
        association.receive_message()
        association.cancel(1, 3)
        begun, pending = time.monotonic(), 1
        while (reply := association.receive_message()).status in (0xFF00, 0xFF01):
            pending += 1
        assert reply.status == 0xFE00 and reply.data_set is None
        assert reply.command["MessageIDBeingRespondedTo"] == 3
        assert time.monotonic() - begun < 1.0
        assert pending < 600
        association.send_command(
            1,
            pdu.command(CommandField=pdu.C_CANCEL_RQ, MessageIDBeingRespondedTo=3, CommandDataSetType=pdu.NO_DATA_SET),
        )
        assert association.find(1, STUDY_ROOT, instances.encode(query("STUDY", PatientID="Q-002"), IMPLICIT_LE))


@pytest.mark.item(77)
def test_a_cancel_of_nothing_is_passed_over(subject):
    with RawAssociation(subject.address) as association:
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        association.cancel(1, 99)
        replies = association.find(1, STUDY_ROOT, instances.encode(query("STUDY", PatientID="Q-002"), IMPLICIT_LE))
        assert [reply.status & 0xFFFE for reply in replies] == [0xFF00, 0x0000]


@pytest.mark.item(77)
def test_a_peer_that_leaves_in_the_middle_disturbs_nobody(subject, crowd):
    keys = instances.encode(query("STUDY", PatientID="CROWD", PatientComments=None), IMPLICIT_LE)
    for _ in range(20):
        association = RawAssociation(subject.address)
        association.associate([(1, STUDY_ROOT, [IMPLICIT_LE])], called=subject.ae_title)
        association.begin_find(1, STUDY_ROOT, keys)
        association.receive_message()
        association.reset()
    assert clients.echo(subject) == 0


@pytest.mark.item(78)
@pytest.mark.relaypacs
def test_more_matches_than_the_limit_end_in_a700(make_subject):
    small = make_subject({"limits": {"query_results": 20}})
    many = [instances.instance(PatientID="MANY") for _ in range(25)]
    clients.store_all(small, many)
    clients.indexed(small, many)
    answers = find(small, query("STUDY", PatientID="MANY", StudyInstanceUID=None))
    assert answers[-1][0] == 0xA700
    assert len(answers) <= 21


@pytest.mark.item(79)
def test_a_timezone_in_the_identifier_does_not_disturb(subject):
    """Adjustment belongs to who negotiated it (PS3.4 §C.5.1.1); others are answered as if it were not there."""
    keys = query("STUDY", StudyInstanceUID=uid("brain"), TimezoneOffsetFromUTC="+0500", StudyTime=None)
    answers = find(subject, keys)
    assert [status & 0xFFFE for status, _ in answers] == [0xFF00, 0x0000]
    assert answers[0][1].StudyTime == "083000.25"


@pytest.mark.item(55)
def test_findscu_of_dcmtk_sees_the_studies(subject):
    import subprocess

    host, port = subject.address
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=Q-001", "-k", "StudyInstanceUID"]
    done = subprocess.run(
        ["findscu", "-S", "-aec", subject.ae_title, *keys, host, str(port)], capture_output=True, text=True, timeout=30
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert uid("brain") in output and uid("abdomen") in output


@pytest.mark.item(55)
@pytest.mark.relaypacs
def test_the_nodes_own_find_sees_the_studies(subject):
    host, port = subject.address
    matches = subject.lines(
        "find",
        f"{subject.ae_title}@{host}:{port}",
        "--level",
        "STUDY",
        "-k",
        "PatientID=Q-001",
        "-k",
        "StudyInstanceUID",
    )
    assert len(matches) == 2
    assert {uid("brain"), uid("abdomen")} == {match["0020000D"]["Value"][0] for match in matches}


@pytest.mark.item(28)
def test_both_models_share_an_association(subject):
    application = AE("BOTH")
    application.add_requested_context(STUDY_ROOT)
    application.add_requested_context(PATIENT_ROOT)
    association = application.associate(*subject.address, ae_title=subject.ae_title)
    for model in (STUDY_ROOT, PATIENT_ROOT, STUDY_ROOT):
        answers = list(association.send_c_find(query("STUDY", PatientID="Q-002"), model))
        assert [status.Status & 0xFFFE for status, _ in answers] == [0xFF00, 0x0000]
    association.release()
    assert isinstance(answers[0][1], Dataset)
