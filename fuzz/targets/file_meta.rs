//! The file meta information in front of a data set (PS3.10 §7.1).

use relaypacs::dicom::Uid;
use relaypacs::dicom::part10::{FileMeta, MetaProgress, prefix, read_meta};

use super::{begins_with, split};

/// Preamble and prefix are there: few inputs would get past them, and those that don't are two lines.
pub fn run(data: &[u8]) {
    let (choice, rest) = split(data);
    let mut file = rest.to_vec();
    if choice % 8 != 0 {
        file = [&[choice; 128][..], b"DICM", rest].concat();
    }
    match read_meta(&file) {
        Ok(MetaProgress::Complete(meta)) => check(&file, &meta),
        Ok(MetaProgress::Incomplete) => assert!(file.len() <= 64 << 10, "nobody waits for more than 64 KiB"),
        Err(what) => assert!(!what.is_empty()),
    }
}

fn check(file: &[u8], meta: &FileMeta) {
    let end = meta.data_set_offset;
    assert!((132..file.len()).contains(&end), "the data set begins behind the end");
    assert!(file[end..].first_chunk() != Some(&[2, 0]), "an element of the file meta in the data set");
    // It arrives in pieces: none of its beginnings may be refused, or taken for a whole.
    let step = (end / 64).max(1);
    for length in (0..end).step_by(step) {
        assert_eq!(
            read_meta(&file[..length]),
            Ok(MetaProgress::Incomplete),
            "the first {length} of {end} bytes"
        );
    }
    write_again(meta);
    let instance = meta.media_storage_sop_instance_uid.as_deref().unwrap_or_default();
    super::plant(|| begins_with(instance.as_bytes(), b"8.8."));
}

/// What is valid in it is written as our own file meta, and read back.
fn write_again(meta: &FileMeta) {
    let uid = |text: &Option<String>| text.as_deref().and_then(|text| Uid::parse(text).ok());
    let (class, instance) =
        (uid(&meta.media_storage_sop_class_uid), uid(&meta.media_storage_sop_instance_uid));
    let (Some(class), Some(instance)) = (class, instance) else { return };
    let Ok(syntax) = Uid::parse(&meta.transfer_syntax_uid) else { return };
    let mut written = prefix(&class, &instance, syntax.as_str(), Some("SEED_1")).to_vec();
    let expected = FileMeta {
        media_storage_sop_class_uid: Some(class.to_string()),
        media_storage_sop_instance_uid: Some(instance.to_string()),
        transfer_syntax_uid: syntax.to_string(),
        data_set_offset: written.len(),
    };
    written.extend_from_slice(b"\x08\0\x05\0CS\0\0");
    assert_eq!(read_meta(&written), Ok(MetaProgress::Complete(expected)));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let ours =
        prefix(&uid("1.2.840.10008.5.1.4.1.1.7"), &uid("1.2.3"), "1.2.840.10008.1.2.1", Some("SEED_1"));
    let long = b"\x02\0\x02\x01OB\0\0\x04\0\0\0\x01\x02\x03\x04\x08\0\x05\0CS\0\0";
    let data_set = b"\x08\0\x05\0CS\x0A\0ISO_IR 100";
    vec![
        [&[1][..], &ours[132..], data_set].concat(),
        [&[2][..], &ours[132..], long].concat(),
        [&[0][..], &ours, data_set].concat(),
        [&[3][..], b"\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\0\x08\0\x05\0\x0A\0\0\0ISO_IR 100"].concat(),
    ]
}
