//! multipart/related bodies (RFC 2387) and the media types that announce them.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use relaypacs::http::dicomweb::media::MediaType;
use relaypacs::http::dicomweb::multipart::{Framing, Reader, boundary};

use super::wire::block_on;
use super::{begins_with, same_in_all_chunks, split};

const BOUNDARY: &str = "b1";

/// The first byte chooses chunks, or that the rest is a media type and no body.
pub fn run(data: &[u8]) {
    let (choice, rest) = split(data);
    if choice % 4 == 3 {
        return check_media_type(&String::from_utf8_lossy(rest));
    }
    let read = same_in_all_chunks(choice, rest.len(), |chunk| block_on(parts(rest, BOUNDARY, chunk)));
    let Some(parts) = read else { return };
    let length: usize = parts.iter().map(|part| part.content.len()).sum();
    assert!(length <= rest.len(), "content out of nothing");
    let delimiter = format!("\r\n--{BOUNDARY}");
    for part in &parts {
        let within = part.content.windows(delimiter.len()).any(|bytes| bytes == delimiter.as_bytes());
        assert!(!within, "a boundary within content");
    }
    frame_again(&parts);
    super::plant(|| parts.iter().any(|part| begins_with(&part.content, b"PLNT")));
}

#[derive(Debug, PartialEq)]
struct Part {
    about: String,
    content: Vec<u8>,
}

/// `None` when the body is refused.
async fn parts(body: &[u8], boundary: &str, chunk: usize) -> Option<Vec<Part>> {
    let chunks = body.chunks(chunk).map(|piece| io::Result::Ok(Bytes::copy_from_slice(piece)));
    let mut reader = Reader::new(futures_util::stream::iter(chunks), boundary);
    let mut parts = Vec::new();
    while let Some(headers) = reader.next_part().await.ok()? {
        let mut content = Vec::new();
        // Every third part is left unread: `next_part` passes over it.
        while parts.len() % 3 != 2
            && let Some(piece) = reader.next().await
        {
            let Ok(piece) = piece else {
                assert!(reader.take_failure().is_some(), "a failure without a reason");
                return None;
            };
            assert!(!piece.is_empty());
            content.extend_from_slice(&piece);
        }
        parts.push(Part { about: format!("{headers:?}"), content });
    }
    Some(parts)
}

/// What our own framing makes of the contents is read back.
fn frame_again(parts: &[Part]) {
    let framing = Framing::new();
    let media = MediaType::parse(&framing.content_type("application/dicom")).expect("what we wrote");
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(&framing.open("Content-Type: application/dicom\r\n"));
        body.extend_from_slice(&part.content);
    }
    body.extend_from_slice(&framing.close());
    let boundary = boundary(&media).expect("our boundary");
    let again = block_on(self::parts(&body, boundary, usize::MAX));
    // Without a part there is nothing that a reader could begin with.
    let again = again.expect("what we framed");
    assert_eq!(again.len(), parts.len());
    for (at, (again, part)) in again.iter().zip(parts).enumerate() {
        assert!(at % 3 == 2 || again.content == part.content);
    }
}

fn check_media_type(text: &str) {
    for media in MediaType::parse_list(text) {
        assert!(media.weight() <= 1000);
        assert!(media.is(&media.kind.to_ascii_lowercase(), &media.subtype.to_ascii_lowercase()));
        if let Some(boundary) = boundary(&media) {
            assert!((1..=70).contains(&boundary.len()) && boundary.is_ascii());
        }
    }
    if let Some(media) = MediaType::parse(text) {
        let pieces: usize = media.parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(media.kind.len() + media.subtype.len() + pieces < text.len());
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let body = b"preamble\r\n--b1\r\nContent-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n\
        Content-Length: 9\r\n\r\none\r\n--b\r\n\r\n--b1  \r\nX: y\r\n\r\n\r\n--b1\r\nX: y\r\n--b1--\r\nepilogue";
    let media = br#"multipart/related; type="application/dicom"; boundary="a\"b", */*;q=0.25, a/b; x=1"#;
    vec![
        [&[0][..], body].concat(),
        [&[1][..], b"--b1\r\n\r\ncontent\r\n--b1--"].concat(),
        [&[2][..], b"--b1\r\nA: 1\r\n\r\n--b1\r\nA: 2\r\n\r\n\r\n--b1\r\nA: 3\r\n\r\nunread\r\n--b1\r\nA: 4\r\n\r\nx\r\n--b1--"].concat(),
        [&[3][..], media].concat(),
    ]
}
