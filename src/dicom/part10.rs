//! Part 10 preamble and file meta (PS3.10 §7.1): written for what we store, read from what HTTP
//! clients send.

use bytes::Bytes;

use super::Uid;

/// Preamble, prefix and file meta of our own for a data set as received. Same input, same bytes.
pub fn prefix(
    _sop_class_uid: &Uid,
    _sop_instance_uid: &Uid,
    _transfer_syntax_uid: &str,
    _source_ae_title: Option<&str>,
) -> Bytes {
    todo!()
}

/// The file meta of a foreign Part 10 file, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    pub media_storage_sop_class_uid: Option<String>,
    pub media_storage_sop_instance_uid: Option<String>,
    pub transfer_syntax_uid: String,
    /// Offset of the data set in the file.
    pub data_set_offset: usize,
}

pub enum MetaProgress {
    /// More bytes are needed to know.
    Incomplete,
    Complete(FileMeta),
}

/// Reads the file meta at the start of `bytes`. Errors say in plain words what is wrong.
/// File meta longer than 64 KiB is refused.
pub fn read_meta(_bytes: &[u8]) -> Result<MetaProgress, &'static str> {
    todo!()
}
