//! Unique identifiers (PS3.5 §9) and the address of an object.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A DICOM UID: 1–64 characters, digits in dot-separated components.
///
/// Leading zeros in a component break PS3.5 §9.1 but occur in real data and identify as well as
/// any other string, so they are taken. Nothing that could be a path or a control character is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a UID: 1 to 64 characters, digits in dot-separated components")]
pub struct InvalidUid;

impl Uid {
    /// Parses a value as it stands in a data set: one trailing NUL or trailing spaces are padding.
    pub fn parse(text: &str) -> Result<Self, InvalidUid> {
        let text = text.trim_end_matches(['\0', ' ']);
        let well_formed = (1..=64).contains(&text.len())
            && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        if well_formed { Ok(Self(text.into())) } else { Err(InvalidUid) }
    }

    /// As [`Uid::parse`], from raw bytes of a value field.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, InvalidUid> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| InvalidUid)?)
    }

    /// A new UID under `2.25` (PS3.5 §B.2).
    pub fn generate() -> Self {
        Self(format!("2.25.{}", rand::random::<u128>()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Uid {
    type Error = InvalidUid;
    fn try_from(text: String) -> Result<Self, InvalidUid> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for Uid {
    type Err = InvalidUid;
    fn from_str(text: &str) -> Result<Self, InvalidUid> {
        Self::parse(text)
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> String {
        uid.0.into()
    }
}

/// The address of an object everywhere: in the log, the index, DICOMweb paths and deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceKey {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub sop_instance_uid: Uid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_not_part_of_a_uid() {
        assert_eq!(Uid::parse("1.2.3\0").unwrap().as_str(), "1.2.3");
        assert_eq!(Uid::parse("1.2.3 ").unwrap().as_str(), "1.2.3");
    }

    #[test]
    fn what_could_be_a_path_is_refused() {
        for text in ["", ".", "..", "1..2", "../../etc/cron.d/x", "/1.2", "1.2\0.3", "1.2.", &"1".repeat(65)]
        {
            assert!(Uid::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn generated_uids_are_valid() {
        let uid = Uid::generate();
        assert_eq!(Uid::parse(uid.as_str()), Ok(uid));
    }
}
