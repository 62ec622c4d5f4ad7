//! DICOMweb (PS3.18): the three services under `/dicom-web/studies`, one file each, and the
//! media types, Accept rules and multipart framing that they share.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use poem::Request;

pub mod accept;
pub mod bulk_data;
pub mod media;
pub mod metadata;
mod metadata_memory;
pub mod multipart;
pub mod qido;
mod range;
mod resource;
mod search_parameters;
pub mod stow;
mod stow_answer;
mod stow_session;
mod syntaxes;
pub mod wado;

pub use metadata_memory::MetadataMemory;
pub use search_parameters::Search;
pub use stow_session::PartBuffers;

/// Query parameters in their order, names and values decoded. `+` stays what it is: DICOM dates
/// carry it in time zones (PS3.18 §8.2 follows RFC 3986, not HTML forms).
pub fn parameters(request: &Request) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
