//! Which representation a client accepts (PS3.18 §8.7.5, RFC 9110 §12.5.1): by the `accept`
//! query parameter, else by its Accept headers, else anything.

use poem::Request;
use poem::http::header;

use super::media::MediaType;
use crate::http::error::ApiError;

/// Media ranges are many only in an attack.
const RANGES: usize = 64;

/// A representation that a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    pub kind: &'static str,
    pub subtype: &'static str,
    /// The `type` of a multipart/related.
    pub related: Option<&'static str>,
}

pub const DICOM_JSON: Offer = Offer { kind: "application", subtype: "dicom+json", related: None };
pub const JSON: Offer = Offer { kind: "application", subtype: "json", related: None };
pub const DICOM_XML: Offer = Offer { kind: "application", subtype: "dicom+xml", related: None };
pub const DICOM_XML_PARTS: Offer =
    Offer { kind: "multipart", subtype: "related", related: Some("application/dicom+xml") };

impl Offer {
    /// How closely `range` means this: 0 not at all, then `*/*`, `type/*`, the type itself.
    fn closeness(&self, range: &MediaType) -> u8 {
        if range.is("*", "*") {
            return 1;
        }
        if range.kind != self.kind {
            return 0;
        }
        if range.subtype == "*" {
            return 2;
        }
        if range.subtype != self.subtype {
            return 0;
        }
        let related = range.parameter("type");
        match (self.related, related) {
            (Some(ours), Some(theirs)) if !theirs.eq_ignore_ascii_case(ours) && theirs != "*/*" => 0,
            _ => 3,
        }
    }

    /// The weight that the closest range gives it; 0 is not acceptable.
    fn weight(&self, ranges: &[MediaType]) -> u16 {
        let closest = ranges
            .iter()
            .map(|range| (self.closeness(range), range.weight()))
            .filter(|(closeness, _)| *closeness > 0)
            .max();
        closest.map_or(0, |(_, weight)| weight)
    }
}

/// What the client says it takes; `*/*` when it says nothing.
pub fn ranges(request: &Request) -> Vec<MediaType> {
    let by_query: Vec<String> = super::parameters(request)
        .filter(|(name, _)| name.eq_ignore_ascii_case("accept"))
        .map(|(_, value)| value.into_owned())
        .collect();
    let texts: Vec<&str> = if by_query.is_empty() {
        let values = request.headers().get_all(header::ACCEPT).iter();
        values.filter_map(|value| value.to_str().ok()).collect()
    } else {
        by_query.iter().map(String::as_str).collect()
    };
    if texts.iter().all(|text| text.trim().is_empty()) {
        return MediaType::parse_list("*/*");
    }
    texts.into_iter().flat_map(MediaType::parse_list).take(RANGES).collect()
}

/// The offer with the highest weight, the earliest of equals; 406 when there is none.
pub fn choose(ranges: &[MediaType], offers: &[Offer]) -> Result<Offer, ApiError> {
    let mut best: Option<(u16, Offer)> = None;
    for offer in offers {
        let weight = offer.weight(ranges);
        if weight > best.map_or(0, |(weight, _)| weight) {
            best = Some((weight, *offer));
        }
    }
    best.map(|(_, offer)| offer).ok_or_else(|| {
        let names: Vec<String> = offers.iter().map(Offer::to_string).collect();
        ApiError::not_acceptable(format!("This address answers as {}.", names.join(", ")))
    })
}

impl std::fmt::Display for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.subtype)?;
        match self.related {
            Some(related) => write!(f, "; type=\"{related}\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QIDO: [Offer; 3] = [DICOM_JSON, JSON, DICOM_XML_PARTS];

    fn chosen(accept: &[&str]) -> Option<Offer> {
        let mut request = Request::builder().uri_str("/dicom-web/studies");
        for value in accept {
            request = request.header(header::ACCEPT, *value);
        }
        choose(&ranges(&request.finish()), &QIDO).ok()
    }

    #[test]
    fn the_heaviest_acceptable_representation_is_chosen() {
        assert_eq!(chosen(&[]), Some(DICOM_JSON));
        assert_eq!(chosen(&["*/*"]), Some(DICOM_JSON));
        assert_eq!(chosen(&["application/*"]), Some(DICOM_JSON));
        assert_eq!(chosen(&["application/json"]), Some(JSON));
        assert_eq!(chosen(&["application/dicom+json;q=0.2, application/json;q=0.8"]), Some(JSON));
        assert_eq!(chosen(&["text/html", "application/dicom+json"]), Some(DICOM_JSON));
        assert_eq!(chosen(&["*/*;q=0.1, application/dicom+json;q=0"]), Some(JSON));
        assert_eq!(chosen(&[r#"multipart/related; type="application/dicom+xml""#]), Some(DICOM_XML_PARTS));
        assert_eq!(chosen(&["multipart/related; type=APPLICATION/dicom+xml;q=0.3"]), Some(DICOM_XML_PARTS));
        assert_eq!(chosen(&[r#"multipart/related; type="*/*""#]), Some(DICOM_XML_PARTS));
    }

    #[test]
    fn what_we_do_not_have_is_not_acceptable() {
        for accept in
            ["text/html", "image/*", "junk", "application/dicom+json;q=0", "multipart/related; type=a/b"]
        {
            assert_eq!(chosen(&[accept]), None, "{accept}");
        }
    }

    #[test]
    fn the_query_parameter_wins_over_the_header() {
        let request = Request::builder()
            .uri_str("/dicom-web/studies?accept=application%2Fjson")
            .header(header::ACCEPT, "text/html")
            .finish();
        assert_eq!(choose(&ranges(&request), &QIDO).unwrap(), JSON);
    }
}
