use dicom_core::{Tag, VR};

use super::*;
use crate::dicom::Attributes;
use crate::dicom::transfer_syntax::EXPLICIT_LITTLE_ENDIAN;

fn key(tag: Tag, value: &str) -> RequestedKey {
    let vr = attributes::by_tag(tag).map_or(VR::LO, |attribute| attribute.vr);
    RequestedKey { tag, vr, value: value.to_owned() }
}

fn plan(top: Level, level: &str, keys: &[RequestedKey]) -> Result<Question, String> {
    let identifier = Identifier { level: level.to_owned(), keys: keys.to_vec() };
    super::plan(identifier, top, Page { limit: 10, offset: 0 })
}

#[test]
fn study_root_has_no_patient_level() {
    assert!(plan(Level::Patient, "PATIENT", &[]).is_ok());
    assert!(plan(Level::Study, "PATIENT", &[]).is_err());
}

#[test]
fn a_missing_or_unknown_level_is_refused() {
    for level in ["", "study", "INSTANCE", "FRAME"] {
        assert!(plan(Level::Study, level, &[]).is_err(), "{level:?}");
    }
}

#[test]
fn above_the_level_unique_keys_are_needed_as_single_values() {
    let study = |value| key(tags::STUDY_INSTANCE_UID, value);
    assert!(plan(Level::Study, "SERIES", &[]).is_err());
    assert!(plan(Level::Study, "SERIES", &[study("")]).is_err());
    assert!(plan(Level::Study, "SERIES", &[study("1.2\\1.3")]).is_err());
    assert!(plan(Level::Study, "SERIES", &[study("1.*")]).is_err());
    assert!(plan(Level::Patient, "STUDY", &[]).is_err(), "Patient Root asks for the patient first");
    assert!(plan(Level::Study, "STUDY", &[]).is_ok());
}

#[test]
fn a_key_of_a_lower_level_or_unknown_is_returned_empty_and_said_to_be_unsupported() {
    assert!(plan(Level::Study, "STUDY", &[key(tags::PATIENT_NAME, "")]).unwrap().supported);
    for tag in [tags::SOP_INSTANCE_UID, tags::STORAGE_MEDIA_FILE_SET_ID, Tag(0x0009, 0x1001)] {
        let question = plan(Level::Study, "STUDY", &[key(tag, "")]).unwrap();
        assert!(!question.supported, "{tag}");
        assert_eq!(question.requested.len(), 1);
    }
    let series = [key(tags::STUDY_INSTANCE_UID, "1.2"), key(tags::SERIES_INSTANCE_UID, "1.3")];
    let image = [&series[..], &[key(tags::RETRIEVE_URL, "")]].concat();
    assert!(plan(Level::Study, "IMAGE", &series).unwrap().supported);
    assert!(!plan(Level::Study, "IMAGE", &image).unwrap().supported);
}

#[test]
fn an_answer_holds_what_was_asked_for_and_what_the_standard_adds() {
    let requested = [
        key(tags::INSTANCE_AVAILABILITY, ""),
        key(tags::PATIENT_NAME, ""),
        key(tags::STUDY_ID, ""),
        key(tags::STORAGE_MEDIA_FILE_SET_ID, ""),
    ];
    let question = plan(Level::Study, "STUDY", &requested).unwrap();
    let mut attributes = Attributes::default();
    attributes.set(tags::PATIENT_NAME, "Doe^Jane");
    attributes.set(tags::PATIENT_ID, "not asked for");
    let syntax = TransferSyntax::by_uid(EXPLICIT_LITTLE_ENDIAN).unwrap();
    let encoded = question.identifier(&Match { attributes }, "RELAYPACS", syntax);

    let read = Identifier::parse(&encoded, syntax).unwrap();
    assert_eq!(read.level, "STUDY");
    let values: Vec<_> = read.keys.iter().map(|key| (key.tag, key.value.as_str())).collect();
    assert_eq!(
        values,
        [
            (tags::RETRIEVE_AE_TITLE, "RELAYPACS"),
            (tags::INSTANCE_AVAILABILITY, "ONLINE"),
            (tags::PATIENT_NAME, "Doe^Jane"),
            (tags::STUDY_ID, ""),
            (tags::STORAGE_MEDIA_FILE_SET_ID, ""),
        ]
    );
}
