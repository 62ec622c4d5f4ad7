use super::*;

const EXPLICIT: &str = "1.2.840.10008.1.2.1";

fn element(tag: Tag, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(tag.group().to_le_bytes());
    bytes.extend(tag.element().to_le_bytes());
    bytes.extend(vr);
    if matches!(vr, b"OB" | b"OW" | b"UN" | b"SQ" | b"UT") {
        bytes.extend([0, 0]);
        bytes.extend((value.len() as u32).to_le_bytes());
    } else {
        bytes.extend((value.len() as u16).to_le_bytes());
    }
    bytes.extend(value);
    bytes
}

fn identified() -> Vec<u8> {
    [
        element(tags::SOP_CLASS_UID, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        element(tags::SOP_INSTANCE_UID, b"UI", b"1.2.3\0"),
        element(tags::STUDY_INSTANCE_UID, b"UI", b"1.2.4\0"),
        element(tags::SERIES_INSTANCE_UID, b"UI", b"1.2.5\0"),
    ]
    .concat()
}

fn scan(bytes: &[u8]) -> Result<Header, ScanError> {
    let mut scanner = HeaderScanner::new(TransferSyntax::by_uid(EXPLICIT).unwrap(), ScanLimits::default());
    scanner.push(bytes)?;
    scanner.finish()
}

fn attribute(tag: Tag, vr: &[u8; 2], value: &[u8]) -> Option<String> {
    let bytes = [element(tag, vr, value), identified()].concat();
    scan(&bytes).unwrap().attributes.get(tag).map(str::to_owned)
}

#[test]
fn an_instance_is_identified_by_its_data_set() {
    let header = scan(&identified()).unwrap();
    assert_eq!(header.sop_class_uid.as_str(), "1.2.840.10008.5.1.4.1.1.2");
    assert_eq!(header.key.sop_instance_uid.as_str(), "1.2.3");
    assert_eq!(header.key.study_instance_uid.as_str(), "1.2.4");
    assert_eq!(header.key.series_instance_uid.as_str(), "1.2.5");
}

#[test]
fn an_identifier_missing_empty_invalid_or_doubled_is_named() {
    let refused = |bytes: &[u8], keyword| {
        assert_eq!(scan(bytes), Err(ScanError::Identifier { keyword }));
    };
    refused(&[], "SOPClassUID");
    let bytes = identified();
    let study = element(tags::STUDY_INSTANCE_UID, b"UI", b"1.2.4\0");
    let at = bytes.windows(study.len()).position(|window| window == study).unwrap();
    for value in [&b""[..], b"\0\0", b"../../x\0", b"1.2\\1.3\0"] {
        let mut damaged = bytes.clone();
        damaged.splice(at..at + study.len(), element(tags::STUDY_INSTANCE_UID, b"UI", value));
        refused(&damaged, "StudyInstanceUID");
    }
    refused(&[bytes, element(tags::SOP_INSTANCE_UID, b"UI", b"1.2.9\0")].concat(), "SOPInstanceUID");
}

#[test]
fn values_are_decoded_trimmed_and_numbers_written_in_decimal() {
    assert_eq!(attribute(tags::IMAGE_TYPE, b"CS", b"ORIGINAL \\AXIAL ").unwrap(), "ORIGINAL\\AXIAL");
    assert_eq!(attribute(tags::ROWS, b"US", &[0, 2]).unwrap(), "512");
    assert_eq!(attribute(tags::ROWS, b"UN", &[0, 2]).unwrap(), "512");
    assert_eq!(attribute(tags::NUMBER_OF_FRAMES, b"US", &[7, 0]).unwrap(), "7");
    assert_eq!(attribute(tags::PATIENT_NAME, b"UN", b"A^B ").unwrap(), "A^B");
    assert_eq!(attribute(tags::PATIENT_ID, b"LO", b"").unwrap(), "");
    assert_eq!(attribute(tags::PATIENT_ID, b"OB", b"ab"), None);
    assert_eq!(attribute(tags::PATIENT_COMMENTS, b"LT", b" a\\b\r\n ").unwrap(), " a\\b\r\n");
}

#[test]
fn the_character_set_counts_wherever_it_stands() {
    let charset = element(tags::SPECIFIC_CHARACTER_SET, b"CS", b"ISO_IR 100");
    let name = element(tags::PATIENT_NAME, b"PN", b"M\xfcller");
    for bytes in [[&charset[..], &name].concat(), [&name[..], &charset].concat()] {
        let header = scan(&[bytes, identified()].concat()).unwrap();
        assert_eq!(header.attributes.get(tags::PATIENT_NAME), Some("Müller"));
        assert_eq!(header.attributes.get(tags::SPECIFIC_CHARACTER_SET), None);
    }
}

#[test]
fn attributes_inside_sequences_are_not_those_of_the_instance() {
    let inner = element(tags::PATIENT_ID, b"LO", b"INNER ");
    let mut item = b"\xFE\xFF\x00\xE0".to_vec();
    item.extend((inner.len() as u32).to_le_bytes());
    item.extend(inner);
    let bytes = [element(tags::REFERENCED_IMAGE_SEQUENCE, b"SQ", &item), identified()].concat();
    assert_eq!(scan(&bytes).unwrap().attributes.get(tags::PATIENT_ID), None);
}

#[test]
fn what_is_too_long_is_not_indexed_and_comments_are_cut() {
    let long = vec![b'x'; 70_000];
    assert_eq!(attribute(tags::PATIENT_ID, b"UT", &long), None);
    assert_eq!(attribute(tags::PATIENT_COMMENTS, b"LT", &long[..20_000]).unwrap().len(), 10_240);
}

#[test]
fn what_is_too_much_together_is_not_indexed_but_what_identifies_the_instance() {
    let long = element(tags::PATIENT_NAME, b"UT", &[b'x'; 60_000]);
    let more = element(tags::PATIENT_ID, b"UT", &[b'y'; 10_000]);
    let header = scan(&[long, more, identified()].concat()).unwrap();
    assert_eq!(header.attributes.get(tags::PATIENT_NAME).map(str::len), Some(60_000));
    assert_eq!(header.attributes.get(tags::PATIENT_ID), None);
    assert!(header.attributes.get(tags::STUDY_INSTANCE_UID).is_some());
}

#[test]
fn repeated_attributes_take_no_more_room_than_one() {
    let comment = element(tags::PATIENT_COMMENTS, b"LT", &[b'x'; 60_000]);
    let mut capture = Capture::default();
    let mut tokenizer = Tokenizer::new(TransferSyntax::by_uid(EXPLICIT).unwrap(), ScanLimits::default());
    for _ in 0..1_000 {
        tokenizer.push(&comment, &mut capture).unwrap();
    }
    assert_eq!((capture.values.len(), capture.held), (1, 60_000));
}
