//! A connection from accept to close: the handshake under ARTIM (PS3.8 §9.1.5), then the
//! association. Every end is counted and logged here, once, with what to do about it.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dimse::associate::AssociateRequest;
use crate::dimse::message::{MessageLimits, MessageStream};
use crate::dimse::pdu::{AbortReason, Incoming, PduError, PduStream};
use crate::lifecycle::Shutdown;
use crate::telemetry::metrics;

use super::ScpContext;
use super::association::{Association, Caller, End};
use super::gate::{Full, Holder, Place};
use super::negotiation::{Agreement, Refused, Rejection, Service};

/// How long a node that stops waits for a peer to close after its A-ABORT, in place of ARTIM.
const STOPPING_CLOSE: Duration = Duration::from_secs(1);

/// A connection that was accepted.
pub struct Connection {
    pub address: IpAddr,
    /// Its address keeps to the allowed rate.
    pub within_rate: bool,
    pub context: ScpContext,
    pub shutdown: Shutdown,
}

/// Counts an association as active while it lives.
struct Active;

impl Active {
    fn begin() -> Self {
        metrics::association_active(1);
        Self
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        metrics::association_active(-1);
    }
}

impl Connection {
    /// `handshake` is held until the association is established, or refused and closed.
    pub async fn run(self, stream: TcpStream, handshake: Place<IpAddr>) {
        let mut pdus = match PduStream::new(stream, self.context.negotiator.max_pdu()) {
            Ok(pdus) => pdus,
            Err(error) => return self.unassociated(&error.into()),
        };
        pdus.set_close_limit(self.context.limits.artim);
        let established = tokio::select! {
            established = self.handshake(&mut pdus) => established,
            () = self.shutdown.hard.cancelled() => None,
        };
        let Some((agreement, place)) = established else { return };
        drop(handshake);
        let active = Active::begin();
        self.associated(pdus, agreement).await;
        drop((active, place));
    }

    /// From the request to our A-ASSOCIATE-AC; `None` when it ended in anything else.
    async fn handshake(&self, pdus: &mut PduStream) -> Option<(Agreement, Place<Holder>)> {
        // One timer for the whole request: a byte now and then does not restart it.
        let received = timeout(self.context.limits.artim, receive_request(pdus)).await;
        let request = match received.unwrap_or(Err(PduError::TimedOut)) {
            Ok(request) => request,
            Err(error) => return self.refuse_connection(pdus, error).await,
        };
        match self.judge(&request) {
            Ok((agreement, place)) => match pdus.send_accept(&agreement.accept).await {
                Ok(()) => Some((agreement, place)),
                Err(error) => self.refuse_connection(pdus, error).await,
            },
            Err(Refused::Reject(rejection)) => {
                self.log_rejection(&request, &rejection);
                pdus.reject(rejection.result, rejection.source, rejection.reason).await;
                None
            }
            Err(Refused::Malformed(what)) => {
                let error = PduError::Protocol { what, abort: AbortReason::SERVICE_USER };
                self.refuse_connection(pdus, error).await
            }
        }
    }

    /// Ends a connection that came to no association. A silent one is closed, not aborted (AA-2).
    async fn refuse_connection<T>(&self, pdus: &mut PduStream, error: PduError) -> Option<T> {
        self.unassociated(&error);
        if let PduError::Protocol { .. } = error {
            pdus.abort(AbortReason::SERVICE_USER).await;
        }
        None
    }

    /// Whether this request is served, and its place among the associations.
    fn judge(&self, request: &AssociateRequest) -> Result<(Agreement, Place<Holder>), Refused> {
        let ScpContext { forward, ingest, peers, negotiator, gate, .. } = &self.context;
        if !self.within_rate {
            return Err(Rejection::TOO_FAST.into());
        }
        if self.shutdown.soft.is_cancelled() {
            return Err(Rejection::DRAINING.into());
        }
        let agreement =
            negotiator.negotiate(request, self.address, peers, |title| forward.may_report(title))?;
        // Echo, search and reports go on while there is no room: reports are what makes room.
        let stores = agreement.contexts.iter().any(|context| context.service == Service::Storage);
        let must_wait = || peers.is_bulk(&agreement.calling_ae_title, self.address) && ingest.is_short();
        if stores && (ingest.ready().is_err() || must_wait()) {
            return Err(Rejection::NOT_READY.into());
        }
        let holder = match agreement.listed {
            true => Holder::Peer(agreement.calling_ae_title.clone()),
            false => Holder::Address(self.address),
        };
        let place = gate.associate(holder, self.address).map_err(|full| match full {
            Full::Node => Rejection::NODE_FULL,
            Full::Peer => Rejection::PEER_FULL,
        })?;
        Ok((agreement, place))
    }

    fn log_rejection(&self, request: &AssociateRequest, rejection: &Rejection) {
        metrics::association_ended("unknown", "rejected");
        tracing::warn!(
            address = %self.address,
            calling_ae_title = ?request.calling_ae_title,
            called_ae_title = ?request.called_ae_title,
            code = %format_args!("{}/{}/{}", rejection.result, rejection.source, rejection.reason),
            advice = rejection.advice,
            "association rejected: {}",
            rejection.why
        );
    }

    async fn associated(&self, pdus: PduStream, agreement: Agreement) {
        let limits = MessageLimits {
            presentation_context_ids: agreement.contexts.iter().map(|context| context.id).collect(),
            max_outgoing_pdu: agreement.max_outgoing_pdu,
            idle: self.context.limits.dimse_idle,
        };
        let label = if agreement.listed { agreement.calling_ae_title.as_str() } else { "unknown" };
        let mut association = Association {
            messages: MessageStream::new(pdus, limits),
            peer: Caller {
                label: label.to_owned(),
                calling_ae_title: agreement.calling_ae_title,
                called_ae_title: agreement.called_ae_title,
                address: self.address,
            },
            contexts: agreement.contexts,
            scp: self.context.clone(),
            objects: 0,
        };
        let end = tokio::select! {
            end = association.serve(&self.shutdown.soft) => Some(end),
            () = self.shutdown.hard.cancelled() => None,
        };
        self.finish(association, end).await;
    }

    /// Closes an association as it ended; `None` is our own stop.
    async fn finish(&self, mut association: Association, end: Option<Result<End, PduError>>) {
        let (result, why, advice) = match &end {
            Some(Ok(End::Released)) => ("released", String::new(), ""),
            Some(Ok(End::Aborted) | Err(PduError::Aborted)) => {
                ("aborted", "the peer aborted".to_owned(), "see the peer's log")
            }
            Some(Err(error)) => ("failed", error.to_string(), advice(error)),
            Some(Ok(End::Idle)) | None => {
                ("aborted", "this node is stopping".to_owned(), "the peer may try again")
            }
        };
        let peer = &association.peer;
        metrics::association_ended(&peer.label, result);
        if result == "released" {
            tracing::info!(
                address = %peer.address,
                calling_ae_title = ?peer.calling_ae_title,
                objects = association.objects,
                "association released"
            );
        } else {
            tracing::warn!(
                address = %peer.address,
                calling_ae_title = ?peer.calling_ae_title,
                objects = association.objects,
                advice,
                "association {result}: {why}"
            );
        }
        let messages = &mut association.messages;
        let abort = match end {
            Some(Ok(End::Aborted)) => None,
            Some(Ok(End::Released)) => match messages.answer_release().await {
                Ok(()) => None,
                Err(error) => error.abort_reason(),
            },
            Some(Err(error)) => error.abort_reason(),
            // Our stop is the service user's, not the protocol machine's; it waits for no one long.
            Some(Ok(End::Idle)) | None => {
                messages.pdus().set_close_limit(STOPPING_CLOSE);
                Some(AbortReason::SERVICE_USER)
            }
        };
        if let Some(reason) = abort {
            messages.pdus().abort(reason).await;
        }
    }

    /// Counts and logs a connection that came to no association.
    fn unassociated(&self, error: &PduError) {
        if matches!(error, PduError::Closed | PduError::Aborted) {
            // A port check, or a change of mind: not an association.
            tracing::debug!(address = %self.address, "connection closed without a request");
            return;
        }
        metrics::association_ended("unknown", "failed");
        let advice = match error {
            PduError::TimedOut => "the peer sent no request in time: look at it, or raise limits.artim",
            error => advice(error),
        };
        tracing::warn!(address = %self.address, advice, "no association: {error}");
    }
}

/// The first PDU of a connection, which must be a request.
async fn receive_request(pdus: &mut PduStream) -> Result<AssociateRequest, PduError> {
    let malformed = |what| PduError::Protocol { what, abort: AbortReason::SERVICE_USER };
    match pdus.receive().await? {
        Incoming::AssociateRequest(request) => Ok(request),
        // AA-2: nothing to answer.
        other if other.is_abort() => Err(PduError::Aborted),
        _ => Err(malformed("the first PDU is not an A-ASSOCIATE-RQ")),
    }
}

fn advice(error: &PduError) -> &'static str {
    match error {
        PduError::Closed | PduError::Aborted | PduError::Io(_) => "look at the network and at the peer's log",
        PduError::TimedOut => "the peer went silent: look at it, or raise limits.dimse_idle",
        PduError::Protocol { .. } => "the peer breaks the protocol, or is no DICOM peer",
    }
}
