//! Which transfer syntaxes a client accepts stored objects in (PS3.18 §8.7.3.5.2), in several
//! parts or as a single one.

use super::media::MediaType;
use crate::dicom::transfer_syntax::EXPLICIT_LITTLE_ENDIAN;

/// What Accept admits of `application/dicom`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DicomAccept {
    /// `multipart/related; type="application/dicom"`
    pub multipart: Syntaxes,
    /// `application/dicom` alone, which only an instance can be.
    pub single: Syntaxes,
}

/// Transfer syntaxes with the weight of the best range that named them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Syntaxes {
    /// `transfer-syntax=*`: as stored.
    any: u16,
    named: Vec<(String, u16)>,
}

impl Syntaxes {
    pub fn admits(&self, transfer_syntax_uid: &str) -> bool {
        self.weight(transfer_syntax_uid) > 0
    }

    /// A range that names the syntax counts before one that takes any.
    pub fn weight(&self, transfer_syntax_uid: &str) -> u16 {
        let named = self.named.iter().filter(|(uid, _)| uid == transfer_syntax_uid);
        named.map(|(_, weight)| *weight).max().unwrap_or(self.any)
    }

    /// Without the parameter the standard's default is meant, whatever is stored.
    fn add(&mut self, range: &MediaType) {
        match range.parameter("transfer-syntax") {
            Some("*") => self.any = self.any.max(range.weight()),
            Some(uid) => self.named.push((uid.to_owned(), range.weight())),
            None => self.named.push((EXPLICIT_LITTLE_ENDIAN.to_owned(), range.weight())),
        }
    }
}

impl DicomAccept {
    pub fn of(ranges: &[MediaType]) -> Self {
        let mut accept = Self::default();
        for range in ranges {
            if range.is("*", "*") {
                // Whoever takes anything takes what is stored.
                accept.multipart.any = accept.multipart.any.max(range.weight());
            } else if range.kind == "multipart" && (range.subtype == "related" || range.subtype == "*") {
                if is_dicom(range.parameter("type")) {
                    accept.multipart.add(range);
                }
            } else if range.is("application", "dicom") {
                accept.single.add(range);
            }
        }
        accept
    }

    /// Whether an instance goes out alone rather than as one part of a multipart.
    pub fn prefers_single(&self, transfer_syntax_uid: &str) -> bool {
        self.single.weight(transfer_syntax_uid) > self.multipart.weight(transfer_syntax_uid)
    }
}

fn is_dicom(kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| kind == "*/*" || kind.eq_ignore_ascii_case("application/dicom"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JPEG: &str = "1.2.840.10008.1.2.4.50";

    fn accept(text: &str) -> DicomAccept {
        DicomAccept::of(&MediaType::parse_list(text))
    }

    #[test]
    fn without_a_parameter_explicit_little_endian_is_meant() {
        for text in [r#"multipart/related; type="application/dicom""#, "multipart/related", "multipart/*"] {
            let accept = accept(text);
            assert!(accept.multipart.admits(EXPLICIT_LITTLE_ENDIAN), "{text}");
            assert!(!accept.multipart.admits(JPEG), "{text}");
            assert!(!accept.single.admits(EXPLICIT_LITTLE_ENDIAN), "{text}");
        }
    }

    #[test]
    fn a_star_admits_what_is_stored() {
        assert!(
            accept(r#"multipart/related; type="application/dicom"; transfer-syntax=*"#)
                .multipart
                .admits(JPEG)
        );
        assert!(accept("*/*").multipart.admits(JPEG));
        assert!(accept("application/dicom; transfer-syntax=*").single.admits(JPEG));
    }

    #[test]
    fn weights_choose_and_zero_refuses() {
        let mixed = accept(&format!(
            "multipart/related; type=\"application/dicom\"; transfer-syntax={JPEG};q=0.5, \
             application/dicom; transfer-syntax=*; q=0.7"
        ));
        assert!(mixed.prefers_single(JPEG));
        assert!(!accept("*/*, application/dicom;transfer-syntax=*").prefers_single(JPEG));
        let refused = accept(&format!("*/*, multipart/related; transfer-syntax={JPEG}; q=0"));
        assert!(!refused.multipart.admits(JPEG) && refused.multipart.admits(EXPLICIT_LITTLE_ENDIAN));
    }

    #[test]
    fn other_types_admit_nothing() {
        for text in ["image/jpeg", r#"multipart/related; type="image/jpeg""#, "text/*"] {
            assert_eq!(accept(text), DicomAccept::default(), "{text}");
        }
    }
}
