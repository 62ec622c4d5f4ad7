//! Notices HTTP/1 requests whose length is said twice: Content-Length beside Transfer-Encoding,
//! or more than once. hyper quietly takes one of them, as RFC 9112 §6.3 permits, but a proxy in
//! front of us may have taken the other, and what one reads as a body the other reads as the next
//! request. Such a request is answered 400 and its connection closed.
//!
//! It looks at the bytes on their way to hyper. A head that is pipelined behind another request
//! is not looked at: hyper's own handling, which closes after it, is what protects there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A longer head is refused by hyper.
const LONGEST_HEAD: usize = 64 * 1024;

/// Shared by the socket, which shows bytes, and the requests, which ask.
#[derive(Clone, Default)]
pub struct HeadWatch(Arc<Flags>);

#[derive(Default)]
struct Flags {
    /// The bytes that come next are not those of a head.
    inside: AtomicBool,
    is_ambiguous: AtomicBool,
}

impl HeadWatch {
    /// No request is under way: what comes next begins one.
    pub fn expect_head(&self) {
        self.0.inside.store(false, Ordering::Relaxed);
    }

    /// Whether the head just read was ambiguous.
    pub fn take_ambiguous(&self) -> bool {
        self.0.is_ambiguous.swap(false, Ordering::Relaxed)
    }
}

/// The socket's side: gathers a head until it is whole.
pub struct HeadReader {
    watch: HeadWatch,
    head: Vec<u8>,
}

impl HeadReader {
    pub fn new(watch: HeadWatch) -> Self {
        Self { watch, head: Vec::new() }
    }

    pub fn read(&mut self, bytes: &[u8]) {
        let flags = &self.watch.0;
        if flags.inside.load(Ordering::Relaxed) {
            return;
        }
        let seen = self.head.len().saturating_sub(3);
        self.head.extend_from_slice(bytes);
        let end = memchr::memmem::find(&self.head[seen..], b"\r\n\r\n").map(|at| seen + at);
        if let Some(end) = end {
            flags.is_ambiguous.store(is_ambiguous(&self.head[..end]), Ordering::Relaxed);
        }
        if end.is_some() || self.head.len() > LONGEST_HEAD {
            flags.inside.store(true, Ordering::Relaxed);
            self.head = Vec::new();
        }
    }
}

fn is_ambiguous(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let is_request =
        lines.next().is_some_and(|line| line.ends_with(b"HTTP/1.1") || line.ends_with(b"HTTP/1.0"));
    let (mut lengths, mut encodings) = (0, 0);
    for line in lines {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii();
        lengths += usize::from(name.eq_ignore_ascii_case(b"content-length"));
        encodings += usize::from(name.eq_ignore_ascii_case(b"transfer-encoding"));
    }
    is_request && (lengths > 1 || (lengths == 1 && encodings > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambiguous(head: &str) -> bool {
        let watch = HeadWatch::default();
        let mut reader = HeadReader::new(watch.clone());
        for byte in head.as_bytes() {
            reader.read(&[*byte]);
        }
        watch.take_ambiguous()
    }

    #[test]
    fn lengths_said_twice_are_noticed() {
        let request = "POST / HTTP/1.1\r\nHost: x\r\n";
        assert!(ambiguous(&format!("{request}Content-Length: 5\r\ntransfer-encoding: chunked\r\n\r\n")));
        assert!(ambiguous(&format!("{request}CONTENT-LENGTH : 5\r\nContent-Length: 5\r\n\r\n")));
        assert!(!ambiguous(&format!("{request}Content-Length: 5\r\n\r\n")));
        assert!(!ambiguous(&format!("{request}Transfer-Encoding: chunked\r\n\r\n")));
        assert!(!ambiguous("a body\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"));
    }

    #[test]
    fn bodies_are_not_looked_at() {
        let watch = HeadWatch::default();
        let mut reader = HeadReader::new(watch.clone());
        reader.read(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n");
        let twice = b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        reader.read(twice);
        assert!(!watch.take_ambiguous());
        watch.expect_head();
        reader.read(twice);
        assert!(watch.take_ambiguous() && !watch.take_ambiguous());
    }
}
