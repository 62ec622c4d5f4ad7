//! Media types and media ranges (RFC 9110 §8.3.1, §12.5.1) as Content-Type and Accept carry
//! them. Type, subtype and parameter names are lower-cased; parameter values are unquoted.

/// `multipart/related; type="application/dicom"`, or a range such as `*/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    pub kind: String,
    pub subtype: String,
    pub parameters: Vec<(String, String)>,
}

impl MediaType {
    /// One media type; `None` when it is not well formed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces = split_unquoted(text, ';').into_iter();
        let (kind, subtype) = pieces.next()?.trim().split_once('/')?;
        if !is_token(kind) || !is_token(subtype) {
            return None;
        }
        let mut parameters = Vec::new();
        for piece in pieces.map(str::trim).filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=')?;
            parameters.push((name.trim().to_ascii_lowercase(), unquote(value.trim())?));
        }
        Some(Self { kind: kind.to_ascii_lowercase(), subtype: subtype.to_ascii_lowercase(), parameters })
    }

    /// The well-formed members of a comma-separated list; others are passed over.
    pub fn parse_list(text: &str) -> Vec<Self> {
        split_unquoted(text, ',').into_iter().filter_map(Self::parse).collect()
    }

    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind == kind && self.subtype == subtype
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Weight in thousandths (RFC 9110 §12.4.2); absent is 1, unreadable counts as absent.
    pub fn weight(&self) -> u16 {
        let quality = self.parameter("q").and_then(|text| text.parse::<f32>().ok()).unwrap_or(1.0);
        (quality.clamp(0.0, 1.0) * 1000.0).round() as u16
    }
}

fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut pieces, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                pieces.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A token as it stands (leniently: DICOM clients leave `application/dicom` unquoted, or the value
/// out), or a quoted string without its quotes.
fn unquote(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let inner = inner.strip_suffix('"')?;
    let (mut text, mut escaped) = (String::with_capacity(inner.len()), false);
    for c in inner.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            c => {
                text.push(c);
                escaped = false;
            }
        }
    }
    (!escaped).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_case_do_not_matter() {
        for text in [
            r#"multipart/related; type="application/dicom"; boundary=abc"#,
            "Multipart/Related;TYPE=application/dicom;boundary=\"abc\"",
            "multipart/related ; boundary=abc; ; type=application/dicom",
        ] {
            let media = MediaType::parse(text).unwrap();
            assert!(media.is("multipart", "related"), "{text}");
            assert_eq!(media.parameter("type"), Some("application/dicom"), "{text}");
            assert_eq!(media.parameter("boundary"), Some("abc"), "{text}");
        }
    }

    #[test]
    fn separators_inside_quotes_are_text() {
        let list = MediaType::parse_list(r#"a/b; x="1,2;3\"4", */*;q=0.25, junk, c/d"#);
        assert_eq!(list.len(), 3);
        assert_eq!(list[0].parameter("x"), Some("1,2;3\"4"));
        assert_eq!(list[1].weight(), 250);
        assert_eq!(list[2].weight(), 1000);
    }

    #[test]
    fn malformed_types_are_none() {
        for text in ["", "text", "/x", "a/", "a b/c", r#"a/b; x="open"#, "a/b; x"] {
            assert_eq!(MediaType::parse(text), None, "{text:?}");
        }
    }
}
