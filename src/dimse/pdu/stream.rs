//! PDUs over TCP: reading with a buffer that grows with what arrived, one write per PDU.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dicom_ul::pdu::{Pdu, write_pdu};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::{AbortReason, DataValue, HEADER, Incoming, PduError, Phase, pdu_type};
use crate::dimse::associate::{AssociateAccept, AssociateRequest};

/// Room made for one read before an association exists: strangers cost little.
const FIRST_READ: usize = 4 << 10;
/// Room made for one read later: several of the usual 16 KiB PDUs at once.
const READ: usize = 64 << 10;
/// Below this, the parts of a write are joined: cheaper than handing them over one by one.
const SMALL_WRITE: usize = 4 << 10;
/// Until the caller sets another (PS3.8 §9.1.4 leaves ARTIM to us).
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// What PDUs pass over: TCP, and where the bytes alone matter, memory.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Sends small writes at once.
    fn set_nodelay(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Acknowledges at once what the next read takes. Best effort: without it the peer is slower,
    /// not wrong.
    fn quick_ack(&self) {}

    /// Closes both directions, whoever else holds the connection.
    fn close(&self) {}
}

impl Wire for TcpStream {
    fn set_nodelay(&self) -> std::io::Result<()> {
        TcpStream::set_nodelay(self, true)
    }

    #[cfg(target_os = "linux")]
    fn quick_ack(&self) {
        let _ = rustix::net::sockopt::set_tcp_quickack(self, true);
    }

    fn close(&self) {
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
    }
}

/// Frames PDUs on a stream. Receiving re-arms `TCP_QUICKACK` before each read: many modalities
/// leave Nagle on, and would else wait for our delayed acknowledgement within every message.
#[derive(Debug)]
pub struct PduStream<W = TcpStream> {
    io: W,
    phase: Phase,
    max_pdu_length: u32,
    /// Never holds storage while it is empty and nothing arrives.
    buffer: BytesMut,
    /// Size of the last P-DATA-TF with its header: the next one will be like it.
    last_data_pdu: usize,
    /// A write began and did not end: what follows would be taken for the rest of its PDU.
    broken: bool,
    write_limit: Duration,
    close_limit: Duration,
}

impl<W: Wire> PduStream<W> {
    /// For the acceptor, which waits for A-ASSOCIATE-RQ. Sets `TCP_NODELAY`. From the
    /// A-ASSOCIATE-AC on, that passes in either direction, P-DATA-TF of at most `max_pdu_length`,
    /// the length that was announced, may come.
    pub fn new(io: W, max_pdu_length: u32) -> std::io::Result<Self> {
        Self::in_phase(io, max_pdu_length, Phase::AwaitingRequest)
    }

    /// As [`PduStream::new`], for the requestor, which sends A-ASSOCIATE-RQ and waits for its
    /// answer.
    pub fn requesting(io: W, max_pdu_length: u32) -> std::io::Result<Self> {
        Self::in_phase(io, max_pdu_length, Phase::AwaitingAnswer)
    }

    fn in_phase(io: W, max_pdu_length: u32, phase: Phase) -> std::io::Result<Self> {
        io.set_nodelay()?;
        Ok(Self {
            io,
            phase,
            max_pdu_length,
            buffer: BytesMut::new(),
            last_data_pdu: 0,
            broken: false,
            write_limit: DEFAULT_LIMIT,
            close_limit: DEFAULT_LIMIT,
        })
    }

    /// Longest time that writing one message part may take; a peer that stops reading is given up.
    pub fn set_write_limit(&mut self, limit: Duration) {
        self.write_limit = limit;
    }

    /// Longest wait for the peer to close after A-ABORT, A-ASSOCIATE-RJ or A-RELEASE-RP (ARTIM).
    pub fn set_close_limit(&mut self, limit: Duration) {
        self.close_limit = limit;
    }

    /// The next PDU. Cancel-safe: what was read stays buffered. Memory grows with bytes received,
    /// never with lengths declared. Has no time limit of its own. After an error only
    /// [`PduStream::abort`] is of use.
    pub async fn receive(&mut self) -> Result<Incoming, PduError> {
        loop {
            if let Some(pdu) = self.take_buffered()? {
                let incoming = self.phase.decode(pdu)?;
                if matches!(incoming, Incoming::AssociateAccept(_)) {
                    self.establish();
                }
                return Ok(incoming);
            }
            self.fill().await?;
        }
    }

    /// From now on P-DATA-TF may come, and faults are answered as PS3.8 §9.2 wants from Sta6 on.
    fn establish(&mut self) {
        self.phase = Phase::Established { max_pdu_length: self.max_pdu_length };
    }

    /// A whole PDU from the buffer; faults are found as soon as the bytes that show them are there.
    fn take_buffered(&mut self) -> Result<Option<Bytes>, PduError> {
        let Some(&pdu_type) = self.buffer.first() else { return Ok(None) };
        self.phase.admit_type(pdu_type)?;
        let Some(&[_, _, a, b, c, d]) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        self.phase.admit_length(pdu_type, length)?;
        let whole = HEADER + length as usize;
        if self.buffer.len() < whole {
            return Ok(None);
        }
        if pdu_type == pdu_type::DATA_TF {
            self.last_data_pdu = whole;
        }
        Ok(Some(self.buffer.split_to(whole).freeze()))
    }

    /// Reads once.
    async fn fill(&mut self) -> Result<(), PduError> {
        let room = self.room();
        self.io.quick_ack();
        let count = poll_fn(|context| self.poll_fill(context, room)).await?;
        if count == 0 { Err(PduError::Closed) } else { Ok(()) }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<std::io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < room {
            self.buffer.reserve(room);
        }
        let polled = poll_read_buf(Pin::new(&mut self.io), context, &mut self.buffer);
        if polled.is_pending() && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        polled
    }

    /// How much to make room for: a chunk, or what is missing of a begun PDU, but at most about
    /// as much as has arrived of it.
    fn room(&self) -> usize {
        let begun = self.buffer.len();
        if self.phase == Phase::AwaitingRequest || self.phase == Phase::AwaitingAnswer {
            return begun.max(FIRST_READ);
        }
        if begun == 0 {
            // With room for the next header, so that one PDU rarely takes two reads.
            return (self.last_data_pdu + HEADER).clamp(READ, 3 * READ);
        }
        let missing = match self.buffer.first_chunk::<HEADER>() {
            Some(&[_, _, a, b, c, d]) => {
                (HEADER + u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(begun)
            }
            None => HEADER,
        };
        missing.min(begun.max(READ))
    }

    #[cfg(test)]
    pub(super) fn buffered_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Encodes and writes one PDU with one write.
    pub async fn send(&mut self, pdu: &Pdu) -> Result<(), PduError> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).map_err(std::io::Error::other)?;
        self.write_association_pdu(&bytes).await
    }

    async fn write_association_pdu(&mut self, bytes: &[u8]) -> Result<(), PduError> {
        if bytes.first() == Some(&pdu_type::ASSOCIATE_AC) {
            self.establish();
        }
        self.write(&[bytes]).await
    }

    pub async fn send_request(&mut self, request: &AssociateRequest) -> Result<(), PduError> {
        self.send_body(pdu_type::ASSOCIATE_RQ, &request.encode()).await
    }

    pub async fn send_accept(&mut self, accept: &AssociateAccept) -> Result<(), PduError> {
        self.send_body(pdu_type::ASSOCIATE_AC, &accept.encode()).await
    }

    /// A-ASSOCIATE-RJ (PS3.8 §9.3.4), then waits for the peer to close as after
    /// [`PduStream::abort`].
    pub async fn reject(&mut self, result: u8, source: u8, reason: u8) {
        if self.send_body(pdu_type::ASSOCIATE_RJ, &[0, result, source, reason]).await.is_ok() {
            self.await_close().await;
        }
    }

    async fn send_body(&mut self, pdu_type: u8, body: &[u8]) -> Result<(), PduError> {
        let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&[pdu_type, 0]);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(body);
        self.write_association_pdu(&bytes).await
    }

    /// Sends each value as a P-DATA-TF of its own, all in one write.
    pub async fn send_data(&mut self, values: &[DataValue]) -> Result<(), PduError> {
        let mut headers = Vec::with_capacity(values.len());
        for value in values {
            let value_length = u32::try_from(value.data.len() + 2).map_err(std::io::Error::other)?;
            headers.push(data_header(value, value_length));
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * values.len());
        for (header, value) in headers.iter().zip(values) {
            parts.extend([&header[..], &value.data[..]]);
        }
        self.write(&parts).await
    }

    /// Writes the parts as if they were one, so that no PDU leaves as two small segments.
    async fn write(&mut self, parts: &[&[u8]]) -> Result<(), PduError> {
        if self.broken {
            return Err(PduError::Io(std::io::ErrorKind::BrokenPipe.into()));
        }
        self.broken = true;
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let io = &mut self.io;
        let written = async {
            if total <= SMALL_WRITE || parts.len() == 1 {
                return io.write_all(&parts.concat()).await;
            }
            let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                match io.write_vectored(rest).await? {
                    0 => return Err(std::io::ErrorKind::WriteZero.into()),
                    count => IoSlice::advance_slices(&mut rest, count),
                }
            }
            Ok(())
        };
        timeout(self.write_limit, written).await.map_err(|_| PduError::TimedOut)??;
        self.broken = false;
        Ok(())
    }

    /// A-ABORT, then waits for the peer to close, at most for the close limit (AA-1, AA-8, Sta13).
    /// After a write that failed or was cancelled nothing is sent: it would end up in a data set.
    pub async fn abort(&mut self, reason: AbortReason) {
        let sent = self.send_body(pdu_type::ABORT, &[0, 0, reason.source, reason.reason]).await;
        // Our half closes at once: peers that wait for it leave sooner, and nothing gets lost.
        if sent.is_ok() && self.io.shutdown().await.is_ok() {
            self.await_close().await;
        }
    }

    /// Discards what comes until the peer closes, or the close limit passed; then closes. Closing
    /// at once could reset the connection and so destroy the PDU just sent.
    pub async fn await_close(&mut self) {
        let limit = self.close_limit;
        let discard = async {
            self.buffer.clear();
            while self.fill().await.is_ok() {
                self.buffer.clear();
            }
        };
        // Passing the limit is no failure: we close, even if our caller keeps us.
        let _ = timeout(limit, discard).await;
        self.io.close();
    }
}

fn data_header(value: &DataValue, value_length: u32) -> [u8; 12] {
    let [a, b, c, d] = value_length.saturating_add(4).to_be_bytes();
    let [e, f, g, h] = value_length.to_be_bytes();
    let control = u8::from(value.is_command) | u8::from(value.is_last) << 1;
    [pdu_type::DATA_TF, 0, a, b, c, d, e, f, g, h, value.presentation_context_id, control]
}
