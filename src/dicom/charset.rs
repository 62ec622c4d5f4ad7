//! Text values to UTF-8 by Specific Character Set (0008,0005) (PS3.5 §6.1, PS3.3 §C.12.1.1.2).
//!
//! Never fails: what can't be decoded becomes U+FFFD. Values are split after decoding, since a
//! backslash byte may be half of a character.

use dicom_core::VR;
use encoding_rs::Encoding;

mod iso2022;
#[cfg(test)]
mod tests;

use iso2022::{Graphic, Repertoire};

/// How the text of a data set (or of a sequence item, which may have its own) is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charset(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Iso2022(Repertoire),
    Utf8,
    Gb18030,
    Gbk,
}

/// What ends the effect of an escape sequence, besides control characters (PS3.5 §6.1.2.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimiters {
    /// One value, in which a backslash is a character (ST, LT, UT, UR).
    None,
    /// `\` between values.
    Values,
    /// `\` between values, `=` between component groups, `^` between components.
    Names,
}

impl Delimiters {
    pub fn of(vr: VR) -> Self {
        match vr {
            VR::PN => Delimiters::Names,
            VR::ST | VR::LT | VR::UT | VR::UR => Delimiters::None,
            _ => Delimiters::Values,
        }
    }

    fn contains(self, byte: u8) -> bool {
        match self {
            Delimiters::None => false,
            Delimiters::Values => byte == b'\\',
            Delimiters::Names => matches!(byte, b'\\' | b'=' | b'^'),
        }
    }
}

impl Default for Charset {
    fn default() -> Self {
        Self(Kind::Iso2022(Repertoire::DEFAULT))
    }
}

impl Charset {
    /// From the value of Specific Character Set. Terms that nobody registered mean the default
    /// repertoire; common misspellings ("ISO-IR 100", "ISO 2022 IR100") are understood.
    pub fn parse(specific_character_set: &str) -> Self {
        let first = specific_character_set.split('\\').next().unwrap_or_default();
        let term = first.trim_matches([' ', '\0']).to_ascii_uppercase();
        match term.as_str() {
            "GB18030" => return Self(Kind::Gb18030),
            "GBK" | "GB2312" => return Self(Kind::Gbk),
            "UTF-8" | "UTF8" | "UTF 8" => return Self(Kind::Utf8),
            _ => {}
        }
        match registration(&term) {
            Some(192) => Self(Kind::Utf8),
            Some(number) => Self(Kind::Iso2022(Repertoire::initial(number))),
            None => Self::default(),
        }
    }

    /// The charset of a value of this VR: only SH, LO, ST, LT, UC, UT and PN are affected by
    /// Specific Character Set (PS3.5 §6.1.2.3).
    pub fn of(self, vr: VR) -> Self {
        match vr {
            VR::SH | VR::LO | VR::ST | VR::LT | VR::UC | VR::UT | VR::PN => self,
            _ => Self::default(),
        }
    }

    pub fn decode(self, bytes: &[u8], delimiters: Delimiters) -> String {
        // Most values are plain ASCII, and this is on the way of every object received.
        if self.is_ascii_based()
            && bytes.is_ascii()
            && !bytes.contains(&iso2022::ESCAPE)
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        match self.0 {
            Kind::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Kind::Gb18030 => whole(encoding_rs::GB18030, bytes),
            Kind::Gbk => whole(encoding_rs::GBK, bytes),
            Kind::Iso2022(initial) => iso2022::decode(bytes, initial, |byte| delimiters.contains(byte)),
        }
    }

    fn is_ascii_based(self) -> bool {
        !matches!(self.0, Kind::Iso2022(Repertoire { g0, .. }) if g0 != Graphic::Ascii)
    }
}

fn whole(encoding: &'static Encoding, bytes: &[u8]) -> String {
    encoding.decode_without_bom_handling(bytes).0.into_owned()
}

/// The ISO-IR number of "ISO_IR 100", "ISO 2022 IR 100" and the like.
fn registration(term: &str) -> Option<u16> {
    let (prefix, number) = term.rsplit_once("IR")?;
    if !prefix.starts_with("ISO") {
        return None;
    }
    number.trim_matches([' ', '_', '-']).parse().ok()
}
