//! Part 10 preamble and file meta (PS3.10 §7.1): written for what we store, read from what HTTP
//! clients send. Of a foreign file only the boundary and the transfer syntax are believed; the
//! data set says itself what it is.

use bytes::Bytes;

use super::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, Uid};

const PREAMBLE: usize = 128;
const MAGIC: &[u8; 4] = b"DICM";
const META_LIMIT: usize = 64 << 10;

// Elements of group 0002 (PS3.10 table 7.1-1).
const FILE_META_INFORMATION_GROUP_LENGTH: u16 = 0x0000;
const FILE_META_INFORMATION_VERSION: u16 = 0x0001;
const MEDIA_STORAGE_SOP_CLASS_UID: u16 = 0x0002;
const MEDIA_STORAGE_SOP_INSTANCE_UID: u16 = 0x0003;
const TRANSFER_SYNTAX_UID: u16 = 0x0010;
const IMPLEMENTATION_CLASS: u16 = 0x0012;
const IMPLEMENTATION_VERSION: u16 = 0x0013;
const SOURCE_APPLICATION_ENTITY_TITLE: u16 = 0x0016;

/// Preamble, prefix and file meta of our own for a data set as received. Same input, same bytes.
pub fn prefix(
    sop_class_uid: &Uid,
    sop_instance_uid: &Uid,
    transfer_syntax_uid: &str,
    source_ae_title: Option<&str>,
) -> Bytes {
    let mut meta = Vec::with_capacity(384);
    put_long(&mut meta, FILE_META_INFORMATION_VERSION, *b"OB", &[0, 1]);
    put(&mut meta, MEDIA_STORAGE_SOP_CLASS_UID, *b"UI", sop_class_uid.as_str());
    put(&mut meta, MEDIA_STORAGE_SOP_INSTANCE_UID, *b"UI", sop_instance_uid.as_str());
    put(&mut meta, TRANSFER_SYNTAX_UID, *b"UI", transfer_syntax_uid);
    put(&mut meta, IMPLEMENTATION_CLASS, *b"UI", IMPLEMENTATION_CLASS_UID);
    put(&mut meta, IMPLEMENTATION_VERSION, *b"SH", IMPLEMENTATION_VERSION_NAME);
    if let Some(title) = source_ae_title {
        put(&mut meta, SOURCE_APPLICATION_ENTITY_TITLE, *b"AE", title);
    }
    let mut file = Vec::with_capacity(PREAMBLE + MAGIC.len() + 12 + meta.len());
    file.resize(PREAMBLE, 0);
    file.extend_from_slice(MAGIC);
    put_header(&mut file, FILE_META_INFORMATION_GROUP_LENGTH, *b"UL");
    file.extend_from_slice(&4u16.to_le_bytes());
    file.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    file.extend_from_slice(&meta);
    file.into()
}

fn put_header(out: &mut Vec<u8>, element: u16, vr: [u8; 2]) {
    out.extend_from_slice(&0x0002u16.to_le_bytes());
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&vr);
}

/// UIDs are padded with NUL, other text with a space (PS3.5 §6.2).
fn put(out: &mut Vec<u8>, element: u16, vr: [u8; 2], text: &str) {
    let padding = if &vr == b"UI" { 0 } else { b' ' };
    put_header(out, element, vr);
    out.extend_from_slice(&(text.len().next_multiple_of(2) as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    if text.len() % 2 == 1 {
        out.push(padding);
    }
}

fn put_long(out: &mut Vec<u8>, element: u16, vr: [u8; 2], value: &[u8]) {
    put_header(out, element, vr);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

/// The file meta of a foreign Part 10 file, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileMeta {
    pub media_storage_sop_class_uid: Option<String>,
    pub media_storage_sop_instance_uid: Option<String>,
    pub transfer_syntax_uid: String,
    /// Offset of the data set in the file.
    pub data_set_offset: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum MetaProgress {
    /// More bytes are needed to know.
    Incomplete,
    Complete(FileMeta),
}

/// Reads the file meta at the start of `bytes`. Errors say in plain words what is wrong.
/// File meta longer than 64 KiB is refused.
///
/// The group length is not believed, since it is often wrong: the file meta ends where an
/// element of another group begins.
pub fn read_meta(bytes: &[u8]) -> Result<MetaProgress, &'static str> {
    let Some(prefix) = bytes.get(PREAMBLE..PREAMBLE + MAGIC.len()) else {
        return Ok(MetaProgress::Incomplete);
    };
    if prefix != MAGIC {
        return Err("no DICM prefix at byte 128");
    }
    let mut meta = FileMeta::default();
    let mut at = PREAMBLE + MAGIC.len();
    loop {
        if at > META_LIMIT {
            return Err("the file meta information is longer than 64 KiB");
        }
        match next(&bytes[at..])? {
            Next::Incomplete if bytes.len() > META_LIMIT => {
                return Err("the file meta information is longer than 64 KiB");
            }
            Next::Incomplete => return Ok(MetaProgress::Incomplete),
            Next::Element { element, value, size } => {
                meta.set(element, value);
                at += size;
            }
            Next::DataSet if meta.transfer_syntax_uid.is_empty() => {
                return Err("the file meta information names no transfer syntax");
            }
            Next::DataSet => {
                meta.data_set_offset = at;
                return Ok(MetaProgress::Complete(meta));
            }
        }
    }
}

impl FileMeta {
    fn set(&mut self, element: u16, value: &[u8]) {
        let text = || String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
        match element {
            MEDIA_STORAGE_SOP_CLASS_UID => self.media_storage_sop_class_uid = Some(text()),
            MEDIA_STORAGE_SOP_INSTANCE_UID => self.media_storage_sop_instance_uid = Some(text()),
            TRANSFER_SYNTAX_UID => self.transfer_syntax_uid = text(),
            _ => {}
        }
    }
}

enum Next<'a> {
    Incomplete,
    Element { element: u16, value: &'a [u8], size: usize },
    DataSet,
}

/// The element at the start of `bytes`, always in Explicit VR Little Endian (PS3.10 §7.1).
fn next(bytes: &[u8]) -> Result<Next<'_>, &'static str> {
    let [g0, g1, e0, e1, v0, v1, rest @ ..] = bytes else { return Ok(Next::Incomplete) };
    if [*g0, *g1] != [2, 0] {
        return Ok(Next::DataSet);
    }
    if !v0.is_ascii_uppercase() || !v1.is_ascii_uppercase() {
        return Err("the file meta information is not in Explicit VR Little Endian");
    }
    let long = matches!(&[*v0, *v1], b"OB" | b"OW" | b"UN" | b"UT" | b"SQ" | b"UC" | b"UR");
    let (length, header) = match (long, rest) {
        (false, [a, b, ..]) => (u32::from(u16::from_le_bytes([*a, *b])), 8),
        (true, [_, _, a, b, c, d, ..]) => (u32::from_le_bytes([*a, *b, *c, *d]), 12),
        _ => return Ok(Next::Incomplete),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > META_LIMIT {
        return Err("the file meta information is longer than 64 KiB");
    }
    let element = u16::from_le_bytes([*e0, *e1]);
    let value = bytes.get(header..header + length);
    Ok(value.map_or(Next::Incomplete, |value| Next::Element { element, value, size: header + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn ours() -> Bytes {
        prefix(&uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3"), "1.2.840.10008.1.2.1", Some("CT1"))
    }

    fn complete(bytes: &[u8]) -> FileMeta {
        match read_meta(bytes) {
            Ok(MetaProgress::Complete(meta)) => meta,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_we_write_is_read_by_a_foreign_library() {
        let ours = ours();
        let table = dicom_object::FileMetaTable::from_reader(&ours[PREAMBLE..]).unwrap();
        assert_eq!(table.information_group_length as usize, ours.len() - PREAMBLE - 16);
        assert_eq!(table.information_version, [0, 1]);
        assert_eq!(table.media_storage_sop_class_uid.trim_end_matches('\0'), "1.2.840.10008.5.1.4.1.1.2");
        assert_eq!(table.media_storage_sop_instance_uid.trim_end_matches('\0'), "1.2.3");
        assert_eq!(table.transfer_syntax(), "1.2.840.10008.1.2.1");
        assert_eq!(table.implementation_class_uid.trim_end_matches('\0'), IMPLEMENTATION_CLASS_UID);
        assert_eq!(table.source_application_entity_title.as_deref().map(str::trim), Some("CT1"));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(ours(), ours());
        assert_eq!(ours().len() % 2, 0);
    }

    #[test]
    fn the_data_set_begins_where_the_file_meta_ends_however_it_arrives() {
        let mut file = ours().to_vec();
        let offset = file.len();
        file.extend_from_slice(b"\x08\0\x05\0CS\x0A\0ISO_IR 100");
        for end in 0..offset + 6 {
            assert_eq!(read_meta(&file[..end]), Ok(MetaProgress::Incomplete), "{end}");
        }
        let meta = complete(&file);
        assert_eq!(meta.data_set_offset, offset);
        assert_eq!(meta.transfer_syntax_uid, "1.2.840.10008.1.2.1");
        assert_eq!(meta.media_storage_sop_instance_uid.as_deref(), Some("1.2.3"));
    }

    #[test]
    fn a_wrong_group_length_and_a_full_preamble_are_no_obstacle() {
        let mut file = ours().to_vec();
        let offset = file.len();
        file[..PREAMBLE].fill(0xA5);
        file[PREAMBLE + 12..][..4].copy_from_slice(&[0xFF; 4]);
        file.extend_from_slice(b"\x08\0\x05\0CS\0\0");
        assert_eq!(complete(&file).data_set_offset, offset);
    }

    #[test]
    fn a_missing_group_length_is_no_obstacle() {
        let mut file = ours().to_vec();
        file.drain(PREAMBLE + 4..PREAMBLE + 16);
        let offset = file.len();
        file.extend_from_slice(b"\x08\0\x05\0CS\0\0");
        assert_eq!(complete(&file).data_set_offset, offset);
    }

    #[test]
    fn what_is_no_part_10_file_is_refused_in_plain_words() {
        assert_eq!(read_meta(&[0; 200]), Err("no DICM prefix at byte 128"));
        let mut implicit = vec![0; PREAMBLE];
        implicit.extend_from_slice(b"DICM\x02\0\x10\0\x04\0\0\x001.2\0");
        assert_eq!(
            read_meta(&implicit),
            Err("the file meta information is not in Explicit VR Little Endian")
        );
        let mut none = vec![0; PREAMBLE];
        none.extend_from_slice(b"DICM\x08\0\x05\0CS\0\0");
        assert_eq!(read_meta(&none), Err("the file meta information names no transfer syntax"));
    }

    #[test]
    fn endless_file_meta_is_refused() {
        let mut file = vec![0; PREAMBLE];
        file.extend_from_slice(b"DICM\x02\0\x02\x01OB\0\0\xF0\xFF\xFF\xFF");
        assert!(read_meta(&file).is_err());
        let mut file = vec![0; PREAMBLE];
        file.extend_from_slice(b"DICM");
        for _ in 0..20_000 {
            file.extend_from_slice(b"\x02\0\x02\x01SH\0\0");
        }
        assert!(read_meta(&file).is_err());
    }
}
