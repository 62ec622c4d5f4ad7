//! Application Entity titles (PS3.5 §6.2, VR AE).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// 1–16 characters of the default repertoire without backslash and control characters; leading
/// and trailing spaces are not significant, case is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AeTitle(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not an AE title: 1 to 16 printable ASCII characters, no backslash, not only spaces")]
pub struct InvalidAeTitle;

impl AeTitle {
    pub fn parse(text: &str) -> Result<Self, InvalidAeTitle> {
        let text = text.trim_matches(' ');
        let well_formed =
            (1..=16).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\');
        if well_formed { Ok(Self(text.into())) } else { Err(InvalidAeTitle) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl TryFrom<String> for AeTitle {
    type Error = InvalidAeTitle;
    fn try_from(text: String) -> Result<Self, InvalidAeTitle> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for AeTitle {
    type Err = InvalidAeTitle;
    fn from_str(text: &str) -> Result<Self, InvalidAeTitle> {
        Self::parse(text)
    }
}

impl From<AeTitle> for String {
    fn from(title: AeTitle) -> String {
        title.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrounding_spaces_are_not_significant_but_case_is() {
        assert_eq!(AeTitle::parse("  CT_1   ").unwrap().as_str(), "CT_1");
        assert_ne!(AeTitle::parse("ct_1"), AeTitle::parse("CT_1"));
    }

    #[test]
    fn control_characters_backslashes_and_blanks_are_refused() {
        for text in ["", "                ", "A\\B", "A\r\nB", "A\0", "\u{1b}[2J", "SEVENTEEN_LETTERS", "Ä"]
        {
            assert!(AeTitle::parse(text).is_err(), "{text:?}");
        }
    }
}
