//! A-RELEASE (PS3.8 §7.2, §9.2.3), from both sides, crossing ones included.

use std::time::Duration;

use dicom_ul::pdu::Pdu;
use tokio::time::timeout;

use super::{MessageStream, Received};
use crate::dimse::pdu::{Incoming, PduError, Wire};

/// Which side of the association we are: it decides who answers first when releases cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Requestor,
    Acceptor,
}

impl<W: Wire> MessageStream<W> {
    /// Answers [`Received::ReleaseRequested`] and waits for the peer to close (AR-4, Sta13).
    pub async fn answer_release(&mut self) -> Result<(), PduError> {
        self.pdus.send(&Pdu::ReleaseRP).await?;
        self.pdus.await_close().await;
        Ok(())
    }

    /// Asks for release and waits for the answer; the caller aborts when this fails and drops the
    /// stream, which closes it, when it succeeds (AR-3). Data still on its way are discarded.
    pub async fn release(&mut self, side: Side, limit: Duration) -> Result<(), PduError> {
        match self.queued.take() {
            Some(Received::ReleaseRequested) => return self.answer_release().await,
            Some(Received::Aborted) => return Err(PduError::Aborted),
            _ => {}
        }
        self.pdus.send(&Pdu::ReleaseRQ).await?;
        let crossed = timeout(limit, self.await_release(side)).await.map_err(|_| PduError::TimedOut)??;
        if crossed && side == Side::Acceptor {
            return self.answer_release().await;
        }
        Ok(())
    }

    /// Waits for A-RELEASE-RP; whether the peer asked for release itself. The requestor answers
    /// such a request at once (AR-8, AR-9), the acceptor after its own was answered (AR-10, AR-4).
    async fn await_release(&mut self, side: Side) -> Result<bool, PduError> {
        let mut crossed = false;
        loop {
            match self.pdus.receive().await? {
                Incoming::Other(Pdu::ReleaseRP) => return Ok(crossed),
                Incoming::Other(Pdu::ReleaseRQ) if !crossed => {
                    crossed = true;
                    if side == Side::Requestor {
                        self.pdus.send(&Pdu::ReleaseRP).await?;
                    }
                }
                Incoming::Other(Pdu::AbortRQ { .. }) => return Err(PduError::Aborted),
                // AR-6: between our request and anybody's answer, data may still arrive.
                Incoming::Data(_) if !crossed => {}
                _ => return Err(PduError::unexpected("a PDU that may not come during release")),
            }
        }
    }
}
