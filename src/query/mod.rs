//! What is being asked, by C-FIND and QIDO alike. Pure: no SQL, no protocol.

use dicom_core::Tag;
use thiserror::Error;

use crate::dicom::{Attribute, Attributes, Level};

pub mod comparable;
pub mod matching;

pub use matching::Matching;

/// One matching key.
#[derive(Debug, Clone)]
pub struct Key {
    pub attribute: &'static Attribute,
    pub matching: Matching,
}

/// A question at one level. All keys must match (PS3.4 §C.2.2).
#[derive(Debug, Clone)]
pub struct Query {
    pub level: Level,
    pub keys: Vec<Key>,
    pub page: Page,
}

#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub limit: usize,
    pub offset: u64,
}

/// One matching entity: every indexed and computed attribute that the index holds for it and the
/// entities above it. The doors pick what was asked for.
#[derive(Debug, Clone)]
pub struct Match {
    pub attributes: Attributes,
}

#[derive(Debug)]
pub struct Matches {
    pub rows: Vec<Match>,
    /// More matched than the page holds.
    pub more: bool,
}

#[derive(Debug, Error)]
pub enum QueryError {
    #[error("{keyword} can't be matched at this level")]
    NotMatchable { keyword: &'static str },
    #[error("{keyword}: {what}")]
    BadValue { keyword: &'static str, what: &'static str },
}

impl Key {
    /// The matching type that PS3.4 §C.2.2.2 gives to this value for this attribute's VR.
    pub fn parse(attribute: &'static Attribute, value: &str) -> Result<Key, QueryError> {
        let bad_value = |what| QueryError::BadValue { keyword: attribute.keyword, what };
        let matching = Matching::parse(attribute.vr, value).map_err(bad_value)?;
        Ok(Key { attribute, matching })
    }
}

/// The unique key of a level (PS3.4 §C.6.1.1, §C.6.2.1).
pub fn unique_key(level: Level) -> Tag {
    use dicom_dictionary_std::tags;
    match level {
        Level::Patient => tags::PATIENT_ID,
        Level::Study => tags::STUDY_INSTANCE_UID,
        Level::Series => tags::SERIES_INSTANCE_UID,
        Level::Image => tags::SOP_INSTANCE_UID,
    }
}
