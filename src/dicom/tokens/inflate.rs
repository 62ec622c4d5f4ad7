//! The raw deflate stream (RFC 1951) around a deflated data set (PS3.5 §A.5), inflated piece by
//! piece. The walker's limits apply to what comes out, and end it at Pixel Data.

use flate2::{Decompress, FlushDecompress, Status};

use super::walker::Walker;
use super::{ScanError, Sink};

const BUFFER: usize = 16 << 10;

pub(super) struct Inflater {
    stream: Decompress,
    buffer: Box<[u8]>,
    ended: bool,
    /// Bytes behind the stream.
    trailer: u64,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            stream: Decompress::new(false),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            ended: false,
            trailer: 0,
        }
    }
}

impl Inflater {
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        walker: &mut Walker,
        sink: &mut impl Sink,
    ) -> Result<(), ScanError> {
        loop {
            if walker.has_stopped() {
                return Ok(());
            }
            if self.ended {
                self.trailer += bytes.len() as u64;
                return check_trailer(self.trailer, walker);
            }
            let (taken, given) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(bytes, &mut self.buffer, FlushDecompress::None);
            let taken = (self.stream.total_in() - taken) as usize;
            let given = (self.stream.total_out() - given) as usize;
            walker.push(&self.buffer[..given], sink)?;
            bytes = &bytes[taken..];
            match status {
                // Not earlier, or whether Pixel Data came before the break would depend on how the
                // bytes arrive.
                Err(_) if !walker.has_stopped() => {
                    return Err(walker.malformed("the deflate stream is broken"));
                }
                status => self.ended = status.is_ok_and(|status| status == Status::StreamEnd),
            }
            if !self.ended && taken == 0 && given == 0 {
                return Ok(());
            }
        }
    }

    pub fn finish(&self, walker: &Walker) -> Result<(), ScanError> {
        if self.ended || walker.has_stopped() { Ok(()) } else { Err(walker.truncated()) }
    }
}

/// Behind the stream there may be padding to even length, and from some writers the trailer of a
/// gzip file (8 bytes).
fn check_trailer(length: u64, walker: &Walker) -> Result<(), ScanError> {
    const GZIP_TRAILER_AND_PADDING: u64 = 9;
    if length <= GZIP_TRAILER_AND_PADDING {
        return Ok(());
    }
    Err(walker.malformed("bytes behind the deflate stream"))
}
