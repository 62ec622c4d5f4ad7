//! The one table of attributes we index. Header scan, SQL columns, matching, C-FIND keys, QIDO
//! `includefield` and the conformance statement all read it: adding an attribute is one line
//! here and a migration.

use std::collections::BTreeMap;

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use serde::{Deserialize, Serialize};

/// Query/Retrieve levels (PS3.4 §C.3), from the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Patient,
    Study,
    Series,
    Image,
}

/// An indexed attribute.
#[derive(Debug)]
pub struct Attribute {
    pub tag: Tag,
    pub keyword: &'static str,
    pub vr: VR,
    /// The entity it belongs to. Patient attributes are kept on the study row too.
    pub level: Level,
    /// Returned by QIDO without being asked for (PS3.18 §10.6.3.3).
    pub default_return: bool,
}

const fn row(tag: Tag, keyword: &'static str, vr: VR, level: Level, default_return: bool) -> Attribute {
    Attribute { tag, keyword, vr, level, default_return }
}

/// In tag order within each level. Computed attributes (ModalitiesInStudy, NumberOf…) are in
/// [`COMPUTED`], because no header carries them.
pub static INDEXED: &[Attribute] = &[
    row(tags::PATIENT_NAME, "PatientName", VR::PN, Level::Patient, true),
    row(tags::PATIENT_ID, "PatientID", VR::LO, Level::Patient, true),
    row(tags::ISSUER_OF_PATIENT_ID, "IssuerOfPatientID", VR::LO, Level::Patient, false),
    row(tags::PATIENT_BIRTH_DATE, "PatientBirthDate", VR::DA, Level::Patient, true),
    row(tags::PATIENT_BIRTH_TIME, "PatientBirthTime", VR::TM, Level::Patient, false),
    row(tags::PATIENT_SEX, "PatientSex", VR::CS, Level::Patient, true),
    row(tags::PATIENT_COMMENTS, "PatientComments", VR::LT, Level::Patient, false),
    row(tags::STUDY_DATE, "StudyDate", VR::DA, Level::Study, true),
    row(tags::STUDY_TIME, "StudyTime", VR::TM, Level::Study, true),
    row(tags::ACCESSION_NUMBER, "AccessionNumber", VR::SH, Level::Study, true),
    row(tags::REFERRING_PHYSICIAN_NAME, "ReferringPhysicianName", VR::PN, Level::Study, true),
    row(tags::STUDY_DESCRIPTION, "StudyDescription", VR::LO, Level::Study, false),
    row(tags::NAME_OF_PHYSICIANS_READING_STUDY, "NameOfPhysiciansReadingStudy", VR::PN, Level::Study, false),
    row(tags::PATIENT_AGE, "PatientAge", VR::AS, Level::Study, false),
    row(tags::PATIENT_SIZE, "PatientSize", VR::DS, Level::Study, false),
    row(tags::PATIENT_WEIGHT, "PatientWeight", VR::DS, Level::Study, false),
    row(tags::STUDY_INSTANCE_UID, "StudyInstanceUID", VR::UI, Level::Study, true),
    row(tags::STUDY_ID, "StudyID", VR::SH, Level::Study, true),
    row(tags::TIMEZONE_OFFSET_FROM_UTC, "TimezoneOffsetFromUTC", VR::SH, Level::Series, true),
    row(tags::MODALITY, "Modality", VR::CS, Level::Series, true),
    row(tags::SERIES_DATE, "SeriesDate", VR::DA, Level::Series, false),
    row(tags::SERIES_TIME, "SeriesTime", VR::TM, Level::Series, false),
    row(tags::MANUFACTURER, "Manufacturer", VR::LO, Level::Series, false),
    row(tags::INSTITUTION_NAME, "InstitutionName", VR::LO, Level::Series, false),
    row(tags::STATION_NAME, "StationName", VR::SH, Level::Series, false),
    row(tags::SERIES_DESCRIPTION, "SeriesDescription", VR::LO, Level::Series, true),
    row(tags::INSTITUTIONAL_DEPARTMENT_NAME, "InstitutionalDepartmentName", VR::LO, Level::Series, false),
    row(tags::PERFORMING_PHYSICIAN_NAME, "PerformingPhysicianName", VR::PN, Level::Series, false),
    row(tags::OPERATORS_NAME, "OperatorsName", VR::PN, Level::Series, false),
    row(tags::MANUFACTURER_MODEL_NAME, "ManufacturerModelName", VR::LO, Level::Series, false),
    row(tags::BODY_PART_EXAMINED, "BodyPartExamined", VR::CS, Level::Series, false),
    row(tags::PROTOCOL_NAME, "ProtocolName", VR::LO, Level::Series, false),
    row(tags::SERIES_INSTANCE_UID, "SeriesInstanceUID", VR::UI, Level::Series, true),
    row(tags::SERIES_NUMBER, "SeriesNumber", VR::IS, Level::Series, true),
    row(tags::LATERALITY, "Laterality", VR::CS, Level::Series, false),
    row(
        tags::PERFORMED_PROCEDURE_STEP_START_DATE,
        "PerformedProcedureStepStartDate",
        VR::DA,
        Level::Series,
        true,
    ),
    row(
        tags::PERFORMED_PROCEDURE_STEP_START_TIME,
        "PerformedProcedureStepStartTime",
        VR::TM,
        Level::Series,
        true,
    ),
    row(tags::SOP_CLASS_UID, "SOPClassUID", VR::UI, Level::Image, true),
    row(tags::SOP_INSTANCE_UID, "SOPInstanceUID", VR::UI, Level::Image, true),
    row(tags::INSTANCE_CREATION_DATE, "InstanceCreationDate", VR::DA, Level::Image, false),
    row(tags::INSTANCE_CREATION_TIME, "InstanceCreationTime", VR::TM, Level::Image, false),
    row(tags::IMAGE_TYPE, "ImageType", VR::CS, Level::Image, false),
    row(tags::ACQUISITION_DATE, "AcquisitionDate", VR::DA, Level::Image, false),
    row(tags::CONTENT_DATE, "ContentDate", VR::DA, Level::Image, false),
    row(tags::ACQUISITION_DATE_TIME, "AcquisitionDateTime", VR::DT, Level::Image, false),
    row(tags::ACQUISITION_TIME, "AcquisitionTime", VR::TM, Level::Image, false),
    row(tags::CONTENT_TIME, "ContentTime", VR::TM, Level::Image, false),
    row(tags::ACQUISITION_NUMBER, "AcquisitionNumber", VR::IS, Level::Image, false),
    row(tags::INSTANCE_NUMBER, "InstanceNumber", VR::IS, Level::Image, true),
    row(tags::NUMBER_OF_FRAMES, "NumberOfFrames", VR::IS, Level::Image, true),
    row(tags::ROWS, "Rows", VR::US, Level::Image, true),
    row(tags::COLUMNS, "Columns", VR::US, Level::Image, true),
    row(tags::BITS_ALLOCATED, "BitsAllocated", VR::US, Level::Image, true),
    row(tags::CONTENT_LABEL, "ContentLabel", VR::CS, Level::Image, false),
    row(tags::CONTENT_DESCRIPTION, "ContentDescription", VR::LO, Level::Image, false),
    row(tags::COMPLETION_FLAG, "CompletionFlag", VR::CS, Level::Image, false),
    row(tags::VERIFICATION_FLAG, "VerificationFlag", VR::CS, Level::Image, false),
];

/// Attributes of an entity that the index counts or collects (PS3.4 §C.3.4, PS3.18 §10.6.3.3).
pub static COMPUTED: &[Attribute] = &[
    row(tags::MODALITIES_IN_STUDY, "ModalitiesInStudy", VR::CS, Level::Study, true),
    row(tags::SOP_CLASSES_IN_STUDY, "SOPClassesInStudy", VR::UI, Level::Study, false),
    row(
        tags::NUMBER_OF_PATIENT_RELATED_STUDIES,
        "NumberOfPatientRelatedStudies",
        VR::IS,
        Level::Patient,
        false,
    ),
    row(
        tags::NUMBER_OF_PATIENT_RELATED_SERIES,
        "NumberOfPatientRelatedSeries",
        VR::IS,
        Level::Patient,
        false,
    ),
    row(
        tags::NUMBER_OF_PATIENT_RELATED_INSTANCES,
        "NumberOfPatientRelatedInstances",
        VR::IS,
        Level::Patient,
        false,
    ),
    row(tags::NUMBER_OF_STUDY_RELATED_SERIES, "NumberOfStudyRelatedSeries", VR::IS, Level::Study, true),
    row(tags::NUMBER_OF_STUDY_RELATED_INSTANCES, "NumberOfStudyRelatedInstances", VR::IS, Level::Study, true),
    row(
        tags::NUMBER_OF_SERIES_RELATED_INSTANCES,
        "NumberOfSeriesRelatedInstances",
        VR::IS,
        Level::Series,
        true,
    ),
    row(tags::INSTANCE_AVAILABILITY, "InstanceAvailability", VR::CS, Level::Image, true),
    row(tags::RETRIEVE_URL, "RetrieveURL", VR::UR, Level::Image, true),
];

/// The indexed or computed attribute with this tag.
pub fn by_tag(tag: Tag) -> Option<&'static Attribute> {
    INDEXED.iter().chain(COMPUTED).find(|attribute| attribute.tag == tag)
}

/// Values of indexed attributes, decoded to UTF-8, padding trimmed; several values joined by `\`,
/// name groups by `=`. An attribute present without a value is the empty string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(BTreeMap<u32, String>);

/// As a map from `ggggeeee` to the value.
impl Serialize for Attributes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (format!("{key:08X}"), value)))
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = BTreeMap::<String, String>::deserialize(deserializer)?;
        let parsed = written.into_iter().map(|(key, value)| Ok((u32::from_str_radix(&key, 16)?, value)));
        let parsed: Result<_, std::num::ParseIntError> = parsed.collect();
        parsed.map(Attributes).map_err(serde::de::Error::custom)
    }
}

impl Attributes {
    pub fn get(&self, tag: Tag) -> Option<&str> {
        self.0.get(&key(tag)).map(String::as_str)
    }

    pub fn set(&mut self, tag: Tag, value: impl Into<String>) {
        self.0.insert(key(tag), value.into());
    }

    pub fn iter(&self) -> impl Iterator<Item = (Tag, &str)> {
        self.0.iter().map(|(key, value)| (Tag((key >> 16) as u16, *key as u16), value.as_str()))
    }
}

fn key(tag: Tag) -> u32 {
    u32::from(tag.group()) << 16 | u32::from(tag.element())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_attribute_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for attribute in INDEXED.iter().chain(COMPUTED) {
            assert!(seen.insert(attribute.tag), "{}", attribute.keyword);
        }
    }

    #[test]
    fn attributes_survive_their_encoding() {
        let mut attributes = Attributes::default();
        attributes.set(tags::PATIENT_ID, "A\\B");
        let text = serde_json::to_string(&attributes).unwrap();
        assert_eq!(serde_json::from_str::<Attributes>(&text).unwrap(), attributes);
    }
}
