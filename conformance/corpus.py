"""What the query suites ask about: a few patients chosen so that every rule of PS3.4 §C.2.2.2 has a hit and a miss."""

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from instances import elements, of, stable_uid

CT, MR, US = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.6.1"


def uid(*names):
    return stable_uid("query corpus", *names)


def requested(step):
    item = Dataset()
    item.ScheduledProcedureStepID, item.RequestedProcedureID = step, "R" + step
    return Sequence([item])


# name → attributes of the study; each has one series with one instance unless SERIES says more.
STUDIES = {
    "brain": dict(
        PatientID="Q-001",
        PatientName="Müller^Jürgen",
        SpecificCharacterSet="ISO_IR 100",
        PatientBirthDate="19500101",
        PatientSex="M",
        StudyDate="20240110",
        StudyTime="083000.25",
        AccessionNumber="ACC-1001",
        StudyID="B1",
        StudyDescription="Brain without contrast",
        ReferringPhysicianName="House^Gregory",
        Modality="CT",
    ),
    "abdomen": dict(
        PatientID="Q-001",
        PatientName="Müller^Jürgen",
        SpecificCharacterSet="ISO_IR 100",
        PatientBirthDate="19500101",
        PatientSex="M",
        StudyDate="20240305",
        StudyTime="0930",
        AccessionNumber="ACC-1002",
        StudyID="A1",
        StudyDescription="Abdomen",
        ReferringPhysicianName="Wilson^James",
        Modality="US",
        SOPClassUID=US,
    ),
    "kanji": dict(
        PatientID="Q-002",
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientBirthDate="19610520",
        PatientSex="M",
        StudyDate="20230615",
        StudyTime="10",
        AccessionNumber="ACC-2001",
        StudyDescription="Knee",
        Modality="MR",
        SOPClassUID=MR,
    ),
    "hanzi": dict(
        PatientID="Q-003",
        PatientName="Wang^XiaoDong=王^小东",
        SpecificCharacterSet="ISO_IR 192",
        StudyDate="20221231",
        StudyTime="235959.999999",
        AccessionNumber="ACC-3001",
        StudyDescription="Кость и hand",
        Modality="MR",
        SOPClassUID=MR,
    ),
    "accents": dict(
        PatientID="Q-004",
        PatientName="Buc^Jérôme",
        SpecificCharacterSet="ISO_IR 192",
        StudyDate="20240110",
        StudyTime="083001",
        AccessionNumber="ACC-4001",
        StudyDescription="Chest",
        Modality="CT",
    ),
    "undated": dict(
        PatientID="Q-005",
        PatientName="Empty^Dates",
        SpecificCharacterSet="ISO_IR 100",
        StudyDate="",
        StudyTime="",
        AccessionNumber="",
        StudyDescription="",
        PatientBirthDate="",
        PatientSex="",
        Modality="CT",
    ),
    "literal": dict(
        PatientID="Q_006%[x]",
        PatientName="Under_score^Per%cent",
        SpecificCharacterSet="ISO_IR 100",
        StudyDate="20200101",
        StudyTime="000000",
        AccessionNumber="ACC_6001",
        StudyDescription="100% [a-z] a_b 'q'",
        Modality="CT",
    ),
    "decoy": dict(
        PatientID="QX006YZxW",
        PatientName="UnderXscore^PerYcent",
        SpecificCharacterSet="ISO_IR 100",
        StudyDate="20200102",
        StudyTime="120000",
        AccessionNumber="ACCX6001",
        StudyDescription="100Y a a-b",
        Modality="CT",
    ),
    "cyrillic": dict(
        PatientID="Q-007",
        PatientName="Люкceмбypг",
        SpecificCharacterSet="ISO_IR 144",
        StudyDate="20210704",
        StudyTime="040506",
        AccessionNumber="ACC-7001",
        StudyDescription="Luxemburg",
        Modality="CT",
    ),
    "upper": dict(
        PatientID="q-001",
        PatientName="SMITH^JOHN",
        SpecificCharacterSet="ISO_IR 100",
        StudyDate="20190101",
        StudyTime="101010",
        AccessionNumber="acc-1001",
        StudyDescription="upper and lower",
        Modality="CT",
    ),
}

# study → series: (name, modality, class, how many instances, more attributes)
SERIES = {
    "brain": [
        (
            "axial",
            "CT",
            CT,
            3,
            dict(SeriesDescription="Axial 5mm", BodyPartExamined="HEAD", RequestAttributesSequence=requested("SPS1")),
        ),
        (
            "sagittal",
            "MR",
            MR,
            2,
            dict(SeriesDescription="Sagittal", BodyPartExamined="BRAIN", RequestAttributesSequence=requested("SPS2")),
        ),
    ],
}


def all_instances():
    """The corpus, fresh encoded, the same UIDs each time."""
    made = []
    for study, attributes in STUDIES.items():
        default = [("only", attributes["Modality"], attributes.get("SOPClassUID", CT), 1, {})]
        for number, (name, modality, sop_class, count, more) in enumerate(SERIES.get(study, default), 1):
            for instance in range(1, count + 1):
                given = (
                    {
                        "ReferringPhysicianName": "",
                        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL" if instance % 2 else "LOCALIZER"],
                        "AcquisitionDateTime": f"202401100{instance}3000.5+0100",
                    }
                    | attributes
                    | more
                )
                given |= dict(
                    Modality=modality,
                    SOPClassUID=sop_class,
                    StudyInstanceUID=uid(study),
                    SeriesInstanceUID=uid(study, name),
                    SOPInstanceUID=uid(study, name, instance),
                    SeriesNumber=number,
                    InstanceNumber=instance,
                )
                made.append(of(elements(**given)))
    return made


def names_of(matches, key="StudyInstanceUID"):
    """The corpus' names of the studies that matched, sorted."""
    known = {uid(name): name for name in STUDIES}
    return sorted(known.get(str(match[key].value), "?") for match in matches)
