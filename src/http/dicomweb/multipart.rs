//! multipart/related (RFC 2387, framing of RFC 2046 §5.1), read as it arrives and written as it
//! is sent. Nothing is held but one chunk, and headers and preamble have limits: a sender
//! decides how long a part is, never how much of it we keep.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use memchr::memmem;
use thiserror::Error;

use super::media::MediaType;

/// RFC 2046 §5.1.1.
const BOUNDARY_LENGTH: usize = 70;
/// Header fields of one part.
const PART_HEADERS: usize = 16 * 1024;
const PREAMBLE: usize = 64 * 1024;
/// White space after a boundary.
const PADDING: usize = 1024;

#[derive(Debug, Error)]
pub enum MultipartError {
    #[error("{0}")]
    Malformed(&'static str),
    /// The body itself failed; see [`crate::http::body::BodyFault`].
    #[error("the body broke off: {0}")]
    Body(#[source] io::Error),
}

/// The boundary that a Content-Type names, when it is a lawful one.
pub fn boundary(content_type: &MediaType) -> Option<&str> {
    let boundary = content_type.parameter("boundary")?;
    let lawful = (1..=BOUNDARY_LENGTH).contains(&boundary.len())
        && boundary.bytes().all(|b| (0x20..0x7f).contains(&b))
        && !boundary.ends_with(' ');
    lawful.then_some(boundary)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Preamble,
    /// Just after `--boundary`.
    Delimiter,
    /// Inside a part's content.
    Content,
    End,
}

/// Reads a body part by part: [`Reader::next_part`], then the reader itself is the stream of
/// that part's content.
pub struct Reader<S> {
    body: S,
    /// CRLF, two hyphens, boundary.
    delimiter: Vec<u8>,
    /// Received, not yet handed on.
    window: Bytes,
    at: At,
    /// The first failure; everything after it fails alike.
    failure: Option<MultipartError>,
}

/// Header fields of a part, as far as they matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartHeaders {
    pub content_type: Option<MediaType>,
    pub content_length: Option<u64>,
    /// How many fields there were.
    pub fields: usize,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Reader<S> {
    pub fn new(body: S, boundary: &str) -> Self {
        Self {
            body,
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first boundary needs no line break before it; with this one it has it.
            window: Bytes::from_static(b"\r\n"),
            at: At::Preamble,
            failure: None,
        }
    }

    /// Headers of the next part, whatever was left of the one before; `None` after the final
    /// boundary. What follows that is ignored, and not read.
    pub async fn next_part(&mut self) -> Result<Option<PartHeaders>, MultipartError> {
        if self.at == At::Preamble {
            self.skip_content(PREAMBLE).await?;
        }
        while self.at == At::Content {
            self.skip_content(usize::MAX).await?;
        }
        if self.at == At::End {
            return Ok(None);
        }
        if self.ends_here().await? {
            self.at = At::End;
            return Ok(None);
        }
        let headers = self.headers().await?;
        self.at = At::Content;
        Ok(Some(headers))
    }

    /// The failure that ended a part's content, if one did.
    pub fn take_failure(&mut self) -> Option<MultipartError> {
        self.failure.take()
    }

    /// Drops content up to the next delimiter.
    async fn skip_content(&mut self, limit: usize) -> Result<(), MultipartError> {
        let mut skipped = 0_usize;
        loop {
            match std::future::poll_fn(|cx| self.poll_content(cx)).await {
                Ok(Some(chunk)) => skipped = skipped.saturating_add(chunk.len()),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
            if skipped > limit {
                return Err(MultipartError::Malformed("the first boundary does not come"));
            }
        }
    }

    /// The next piece of content; `None` once, at its delimiter.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, MultipartError>> {
        loop {
            if let Some(found) = memmem::find(&self.window, &self.delimiter) {
                if found > 0 {
                    return Poll::Ready(Ok(Some(self.window.split_to(found))));
                }
                self.window.advance(self.delimiter.len());
                self.at = At::Delimiter;
                return Poll::Ready(Ok(None));
            }
            let kept = partial_delimiter(&self.window, &self.delimiter);
            if self.window.len() > kept {
                return Poll::Ready(Ok(Some(self.window.split_to(self.window.len() - kept))));
            }
            ready!(self.poll_more(cx))?;
        }
    }

    /// Adds the next chunk of the body to the window.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MultipartError>> {
        let chunk = match ready!(Pin::new(&mut self.body).poll_next(cx)) {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Poll::Ready(Err(MultipartError::Body(error))),
            None => return Poll::Ready(Err(MultipartError::Malformed("the final boundary is missing"))),
        };
        if self.window.is_empty() {
            self.window = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.window.len() + chunk.len());
            joined.extend_from_slice(&self.window);
            joined.extend_from_slice(&chunk);
            self.window = joined.freeze();
        }
        Poll::Ready(Ok(()))
    }

    async fn more(&mut self) -> Result<(), MultipartError> {
        std::future::poll_fn(|cx| self.poll_more(cx)).await
    }

    /// After a boundary: two hyphens close the body; white space and a line break open a part.
    async fn ends_here(&mut self) -> Result<bool, MultipartError> {
        let mut padding = 0;
        loop {
            while self.window.len() < 2 {
                self.more().await?;
            }
            match (self.window[0], self.window[1]) {
                (b'-', b'-') if padding == 0 => return Ok(true),
                (b'\r', b'\n') => {
                    self.window.advance(2);
                    return Ok(false);
                }
                (b' ' | b'\t', _) if padding < PADDING => {
                    padding += 1;
                    self.window.advance(1);
                }
                _ => return Err(MultipartError::Malformed("a boundary is followed by other text")),
            }
        }
    }

    /// Lines up to an empty one. A boundary right here belongs to a part without content.
    async fn headers(&mut self) -> Result<PartHeaders, MultipartError> {
        let (mut headers, mut read) = (PartHeaders::default(), 0);
        loop {
            if self.at_bare_boundary().await? {
                // Hand it to poll_content as the delimiter it is.
                let mut window = BytesMut::from(&b"\r\n"[..]);
                window.extend_from_slice(&self.window);
                self.window = window.freeze();
                return Ok(headers);
            }
            let line = self.line(PART_HEADERS - read).await?;
            read += line.len() + 2;
            if line.is_empty() {
                return Ok(headers);
            }
            if read >= PART_HEADERS {
                return Err(MultipartError::Malformed("the header fields of a part are too long"));
            }
            headers.take(&line)?;
        }
    }

    async fn at_bare_boundary(&mut self) -> Result<bool, MultipartError> {
        loop {
            let boundary = &self.delimiter[2..];
            let known = self.window.len().min(boundary.len());
            if self.window[..known] != boundary[..known] {
                return Ok(false);
            }
            if known == boundary.len() {
                return Ok(true);
            }
            self.more().await?;
        }
    }

    async fn line(&mut self, limit: usize) -> Result<Bytes, MultipartError> {
        loop {
            if let Some(end) = memmem::find(&self.window, b"\r\n") {
                let line = self.window.split_to(end);
                self.window.advance(2);
                return Ok(line);
            }
            if self.window.len() > limit {
                return Err(MultipartError::Malformed("the header fields of a part are too long"));
            }
            self.more().await?;
        }
    }
}

/// The content of the part that [`Reader::next_part`] opened. It fails when the body breaks off.
impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Reader<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.at != At::Content || self.failure.is_some() {
            return Poll::Ready(None);
        }
        match ready!(self.poll_content(cx)) {
            Ok(chunk) => Poll::Ready(chunk.map(Ok)),
            Err(error) => {
                self.failure = Some(error);
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
            }
        }
    }
}

impl PartHeaders {
    fn take(&mut self, line: &[u8]) -> Result<(), MultipartError> {
        let text = std::str::from_utf8(line)
            .map_err(|_| MultipartError::Malformed("a header field of a part is not text"))?;
        if text.starts_with([' ', '\t']) {
            return Err(MultipartError::Malformed("folded header fields are not supported"));
        }
        let (name, value) =
            text.split_once(':').ok_or(MultipartError::Malformed("a header field of a part has no colon"))?;
        self.fields += 1;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-type") {
            let media = MediaType::parse(value)
                .ok_or(MultipartError::Malformed("the Content-Type of a part can't be read"))?;
            self.content_type = Some(media);
        } else if name.eq_ignore_ascii_case("content-length") {
            self.content_length = value.parse().ok();
        }
        Ok(())
    }
}

/// How many bytes at the end of `window` may be the beginning of a delimiter.
fn partial_delimiter(window: &[u8], delimiter: &[u8]) -> usize {
    let longest = window.len().min(delimiter.len() - 1);
    (1..=longest).rev().find(|length| window.ends_with(&delimiter[..*length])).unwrap_or(0)
}

/// Frames parts for an answer.
pub struct Framing {
    boundary: String,
}

impl Framing {
    /// With a boundary that no content can hold but by a chance of 2^-128.
    pub fn new() -> Self {
        Self { boundary: format!("{:032x}", rand::random::<u128>()) }
    }

    pub fn content_type(&self, of: &str) -> String {
        format!("multipart/related; type=\"{of}\"; boundary={}", self.boundary)
    }

    /// What precedes a part's content. `headers` end in CRLF each.
    pub fn open(&self, headers: &str) -> Bytes {
        format!("\r\n--{}\r\n{headers}\r\n", self.boundary).into()
    }

    pub fn close(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    type Parts = Vec<(PartHeaders, Vec<u8>)>;

    async fn read(body: &[u8], chunk: usize, boundary: &str) -> Result<Parts, MultipartError> {
        let chunks: Vec<_> = body.chunks(chunk).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let mut reader = Reader::new(futures_util::stream::iter(chunks), boundary);
        let mut parts = Vec::new();
        while let Some(headers) = reader.next_part().await? {
            let mut content = Vec::new();
            while let Some(piece) = reader.next().await {
                match piece {
                    Ok(piece) => content.extend_from_slice(&piece),
                    Err(_) => return Err(reader.take_failure().unwrap()),
                }
            }
            parts.push((headers, content));
        }
        Ok(parts)
    }

    #[tokio::test]
    async fn parts_arrive_whole_however_they_are_cut() {
        let body = b"preamble\r\n--b1\r\nContent-Type: application/dicom\r\nContent-Length: 9\r\n\r\n\
            one\r\n--b\r\n\r\n--b1  \r\nX: y\r\n\r\n\r\n--b1\r\nX: y\r\n--b1--\r\nepilogue";
        for chunk in [1, 2, 3, 5, 7, 64, 4096] {
            let parts = read(body, chunk, "b1").await.unwrap();
            assert_eq!(parts.len(), 3, "in chunks of {chunk}");
            assert_eq!(parts[0].1, b"one\r\n--b\r\n");
            assert_eq!(parts[0].0.content_length, Some(9));
            assert!(parts[0].0.content_type.as_ref().unwrap().is("application", "dicom"));
            assert_eq!(parts[1].1, b"");
            assert_eq!(parts[2].1, b"", "a part without content");
        }
    }

    #[tokio::test]
    async fn a_part_without_header_fields_is_told_by_their_number() {
        let parts = read(b"--b\r\n\r\ncontent\r\n--b--", 4, "b").await.unwrap();
        assert_eq!(parts[0].0.fields, 0);
        assert_eq!(parts[0].1, b"content");
    }

    #[tokio::test]
    async fn unread_content_is_passed_over() {
        let body = Bytes::from_static(b"--b\r\nA: 1\r\n\r\nlong content\r\n--b\r\nA: 2\r\n\r\nx\r\n--b--");
        let mut reader = Reader::new(futures_util::stream::iter([Ok(body)]), "b");
        assert!(reader.next_part().await.unwrap().is_some());
        assert!(reader.next_part().await.unwrap().is_some());
        assert_eq!(reader.next().await.unwrap().unwrap(), "x");
        assert!(reader.next().await.is_none());
        assert!(reader.next_part().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn broken_framing_is_an_error() {
        let endless = format!("--b\r\nX: {}", "y".repeat(20_000));
        let preamble = "x".repeat(100_000);
        for body in [
            "",
            "no boundary at all",
            "--b",
            "--b\r\nA: 1\r\n\r\ncontent",
            "--b\r\nA: 1\r\n\r\ncontent\r\n--b",
            "--b\r\nA: 1\r\n\r\ncontent\r\n--b-",
            "--bogus\r\nA: 1\r\n\r\ncontent\r\n--bogus--",
            "--b\r\nno colon\r\n\r\ncontent\r\n--b--",
            "--b\nA: 1\n\ncontent\n--b--\n",
            &endless,
            &preamble,
        ] {
            let outcome = read(body.as_bytes(), 1000, "b").await;
            assert!(matches!(outcome, Err(MultipartError::Malformed(_))), "{:.40}: {outcome:?}", body);
        }
    }

    #[tokio::test]
    async fn what_is_framed_is_read_back() {
        let framing = Framing::new();
        let media = MediaType::parse(&framing.content_type("application/dicom")).unwrap();
        let mut body = Vec::new();
        for content in ["one", "two"] {
            body.extend_from_slice(&framing.open("Content-Type: application/dicom\r\n"));
            body.extend_from_slice(content.as_bytes());
        }
        body.extend_from_slice(&framing.close());
        let parts = read(&body, 10, boundary(&media).unwrap()).await.unwrap();
        assert_eq!(parts.iter().map(|(_, content)| &content[..]).collect::<Vec<_>>(), [b"one", b"two"]);
    }

    #[test]
    fn boundaries_are_bounded() {
        let media = |boundary: &str| MediaType::parse(&format!("multipart/related; boundary=\"{boundary}\""));
        assert_eq!(boundary(&media(&"x".repeat(70)).unwrap()), Some("x".repeat(70).as_str()));
        assert_eq!(boundary(&media(&"x".repeat(71)).unwrap()), None);
        assert_eq!(boundary(&media("").unwrap()), None);
        assert_eq!(boundary(&MediaType::parse("multipart/related").unwrap()), None);
    }
}
