//! The body of a STOW-RS request: several Part 10 files as multipart/related (PS3.18 §8.6.1.2),
//! streamed from the spool with their exact length known beforehand.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::progress::Progress;
use crate::spool::{CheckBy, ObjectReader, Spool, SpoolEntry, SpoolError};

/// Bytes of an object in memory at a time.
const CHUNK: usize = 256 << 10;

/// Which object could not be read while the body was on its way, and why.
pub type Unreadable = Arc<Mutex<Option<(usize, String)>>>;

pub struct MultipartBody {
    /// The mutex is never contended: it makes the stream `Sync`, as the client wants it.
    stream: Mutex<Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>>,
    left: u64,
}

/// What the stream still has to send, part by part.
struct Writer {
    spool: Spool,
    entries: Vec<Arc<SpoolEntry>>,
    boundary: String,
    at: usize,
    open: Option<(ObjectReader, u64)>,
    finished: bool,
    progress: Progress,
    unreadable: Unreadable,
}

impl MultipartBody {
    pub fn new(
        spool: Spool,
        entries: Vec<Arc<SpoolEntry>>,
        boundary: String,
        progress: Progress,
        unreadable: Unreadable,
    ) -> Self {
        let left = length(&entries, &boundary);
        let writer =
            Writer { spool, entries, boundary, at: 0, open: None, finished: false, progress, unreadable };
        let stream = stream::try_unfold(writer, |mut writer| async move {
            Ok(writer.next().await?.map(|bytes| (bytes, writer)))
        });
        Self { stream: Mutex::new(Box::pin(stream)), left }
    }
}

/// Bytes of one instance's Part 10 file.
pub fn file_length(entry: &SpoolEntry) -> u64 {
    u64::from(entry.prefix_length) + entry.data_set_length
}

fn length(entries: &[Arc<SpoolEntry>], boundary: &str) -> u64 {
    let heads = entries.iter().enumerate().map(|(at, _)| part_head(boundary, at > 0).len() as u64);
    let files = entries.iter().map(|entry| file_length(entry));
    heads.chain(files).sum::<u64>() + tail(boundary).len() as u64
}

fn part_head(boundary: &str, follows: bool) -> Bytes {
    let line_break = if follows { "\r\n" } else { "" };
    format!("{line_break}--{boundary}\r\nContent-Type: application/dicom\r\n\r\n").into()
}

fn tail(boundary: &str) -> Bytes {
    format!("\r\n--{boundary}--\r\n").into()
}

impl Writer {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.progress.made();
        if let Some((reader, offset)) = &mut self.open {
            if *offset < reader.len() {
                let read = reader.read_at(*offset, CHUNK).await;
                let bytes = read.map_err(|error| self.fail(&error))?;
                if let Some((_, offset)) = &mut self.open {
                    *offset += bytes.len() as u64;
                }
                return Ok(Some(bytes));
            }
            self.open = None;
            self.at += 1;
            self.progress.went_out();
        }
        if let Some(entry) = self.entries.get(self.at) {
            let reader =
                self.spool.load(entry.id, CheckBy::Sha256).await.map_err(|error| self.fail(&error))?;
            self.open = Some((reader, 0));
            return Ok(Some(part_head(&self.boundary, self.at > 0)));
        }
        if self.finished {
            return Ok(None);
        }
        self.finished = true;
        Ok(Some(tail(&self.boundary)))
    }

    fn fail(&self, error: &SpoolError) -> io::Error {
        *self.unreadable.lock() = Some((self.at, error.to_string()));
        io::Error::other("an object can't be read")
    }
}

impl Body for MultipartBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = self.stream.get_mut().as_mut().poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            self.left = self.left.saturating_sub(bytes.len() as u64);
        }
        polled.map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
