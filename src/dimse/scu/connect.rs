//! How an outgoing association comes about: connect, propose, understand the answer (PS3.8
//! §7.1, §9.3.2–§9.3.4).

use std::io::Error;
use std::net::SocketAddr;
use std::time::Duration;

use dicom_ul::pdu::Pdu;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Accepted, Association, Peer, Proposal, ScuError};
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::dimse::associate::{
    APPLICATION_CONTEXT, AssociateAccept, AssociateRequest, MOST_CONTEXTS, ProposedContext, RoleSelection,
    UserInformation,
};
use crate::dimse::message::{LARGEST_PDU, MessageLimits, MessageStream, outgoing_pdu_length};
use crate::dimse::pdu::{Incoming, PduError, PduStream};

/// We asked for the association, so after an abort we may close without much ceremony.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

impl Association {
    /// Proposes at most 128 contexts (ids 1, 3 … 255), and waits for the answer. That all are
    /// refused is not an error here: [`Association::context`] tells.
    pub async fn connect(peer: &Peer, proposals: &[Proposal]) -> Result<Self, ScuError> {
        if proposals.len() > MOST_CONTEXTS {
            let error = std::io::Error::other("more than 128 presentation contexts to propose");
            return Err(ScuError::Protocol(PduError::Io(error)));
        }
        let mut pdus = open(peer).await?;
        let negotiated = timeout(peer.timeout, negotiate(&mut pdus, peer, proposals)).await;
        let accept = match negotiated.unwrap_or(Err(ScuError::TimedOut(peer.timeout))) {
            Ok(accept) => accept,
            Err(error) => {
                if let Some(reason) = error.abort_reason() {
                    pdus.abort(reason).await;
                }
                return Err(error);
            }
        };
        let contexts = accepted(proposals, &accept);
        let limits = MessageLimits {
            presentation_context_ids: contexts.iter().map(|context| context.id).collect(),
            max_outgoing_pdu: outgoing_pdu_length(accept.user.max_length),
            idle: peer.timeout,
        };
        Ok(Self::new(MessageStream::new(pdus, limits), contexts, peer.timeout))
    }
}

async fn open(peer: &Peer) -> Result<PduStream, ScuError> {
    let failed = |source| ScuError::Connect { host: format!("{}:{}", peer.host, peer.port), source };
    let connecting = TcpStream::connect((peer.host.as_str(), peer.port));
    let connected = timeout(peer.timeout, connecting).await.map_err(|_| ScuError::TimedOut(peer.timeout))?;
    let elsewhere =
        connected.and_then(|io| if is_own(&io, peer)? { Err(Error::other(ITSELF)) } else { Ok(io) });
    let mut pdus = elsewhere.and_then(|io| PduStream::requesting(io, LARGEST_PDU)).map_err(failed)?;
    pdus.set_write_limit(peer.timeout);
    pdus.set_close_limit(CLOSE_LIMIT.min(peer.timeout));
    Ok(pdus)
}

const ITSELF: &str = "it is this node itself, which would free what it delivers there";

/// A machine that connects to itself does so from the address that it connects.
fn is_own(connected: &TcpStream, peer: &Peer) -> std::io::Result<bool> {
    let (remote, local) = (connected.peer_addr()?, connected.local_addr()?);
    let is_met =
        |own: &SocketAddr| own.ip() == remote.ip() || own.ip().is_unspecified() && remote.ip() == local.ip();
    Ok(peer.never.iter().any(|own| own.port() == remote.port() && is_met(own)))
}

async fn negotiate(
    pdus: &mut PduStream,
    peer: &Peer,
    proposals: &[Proposal],
) -> Result<AssociateAccept, ScuError> {
    pdus.send_request(&request(peer, proposals)).await?;
    match pdus.receive().await? {
        Incoming::AssociateAccept(accept) => Ok(accept),
        Incoming::AssociateReject { result, source, reason } => {
            Err(ScuError::Rejected(rejection(peer, result, source, reason)))
        }
        Incoming::Other(Pdu::AbortRQ { .. }) => Err(ScuError::Aborted),
        _ => Err(PduError::unexpected("no answer to our association request").into()),
    }
}

fn request(peer: &Peer, proposals: &[Proposal]) -> AssociateRequest {
    let contexts = proposals.iter().zip((1..=255).step_by(2)).map(|(proposal, id)| ProposedContext {
        id,
        abstract_syntax: proposal.abstract_syntax.clone(),
        transfer_syntaxes: proposal.transfer_syntaxes.clone(),
    });
    let mut roles: Vec<RoleSelection> = Vec::new();
    for proposal in proposals.iter().filter(|proposal| proposal.scp_role) {
        // One for each SOP class, however many contexts it has (PS3.7 §D.3.3.4).
        if !roles.iter().any(|role| role.sop_class_uid == proposal.abstract_syntax) {
            let sop_class_uid = proposal.abstract_syntax.clone();
            roles.push(RoleSelection { sop_class_uid, scu: true, scp: true });
        }
    }
    AssociateRequest {
        protocol_version: 1,
        called_ae_title: peer.called_ae_title.to_string(),
        calling_ae_title: peer.calling_ae_title.to_string(),
        echoed: Vec::new(),
        application_context: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: contexts.collect(),
        user: UserInformation {
            max_length: LARGEST_PDU,
            implementation_class_uid: Some(IMPLEMENTATION_CLASS_UID.to_owned()),
            implementation_version_name: Some(IMPLEMENTATION_VERSION_NAME.to_owned()),
            roles,
            ..UserInformation::default()
        },
    }
}

/// The contexts that were accepted in a transfer syntax that we proposed for them; an answer to
/// anything else is as good as none.
fn accepted(proposals: &[Proposal], accept: &AssociateAccept) -> Vec<Accepted> {
    let mut contexts = Vec::new();
    for result in accept.presentation_contexts.iter().filter(|result| result.result == 0) {
        let proposal = proposals.get(usize::from(result.id / 2)).filter(|_| result.id % 2 == 1);
        let Some(proposal) = proposal else { continue };
        if proposal.transfer_syntaxes.contains(&result.transfer_syntax) {
            contexts.push(Accepted {
                id: result.id,
                abstract_syntax: proposal.abstract_syntax.clone(),
                transfer_syntax: result.transfer_syntax.clone(),
            });
        }
    }
    contexts
}

/// A rejection in plain words, with what to do about it (PS3.8 table 9-21).
fn rejection(peer: &Peer, result: u8, source: u8, reason: u8) -> String {
    let (calling, called) = (&peer.calling_ae_title, &peer.called_ae_title);
    let why = match (source, reason) {
        (1, 2) => "it does not support the DICOM application context: is it a DICOM peer?".to_owned(),
        (1, 3) => format!("it does not know the calling AE title {calling}: register it there"),
        (1, 7) => format!("it does not answer to the called AE title {called}: correct the title"),
        (2, 2) => "it does not support this protocol version: is it a DICOM peer?".to_owned(),
        (3, 1) => "it is congested: try again later".to_owned(),
        (3, 2) => "it has no association left: try again later, or open fewer at once".to_owned(),
        _ => "it gives no reason: look into its log".to_owned(),
    };
    let duration = if result == 2 { "for now" } else { "permanently" };
    format!("{called} rejects the association {duration}, {why} ({result}/{source}/{reason})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::AeTitle;
    use crate::dimse::associate::ContextResult;

    fn peer() -> Peer {
        Peer {
            host: "127.0.0.1".into(),
            port: 104,
            called_ae_title: AeTitle::parse("ARCHIVE").unwrap(),
            calling_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
            timeout: Duration::from_secs(5),
            never: [].into(),
        }
    }

    fn proposal(abstract_syntax: &str, scp_role: bool) -> Proposal {
        Proposal {
            abstract_syntax: abstract_syntax.into(),
            transfer_syntaxes: vec!["1.2.840.10008.1.2".into(), "1.2.840.10008.1.2.1".into()],
            scp_role,
        }
    }

    #[test]
    fn contexts_get_odd_ids_and_each_sop_class_one_role_item() {
        let proposals: Vec<Proposal> = (0..128).map(|n| proposal(&format!("1.{}", n / 2), n < 4)).collect();
        let request = request(&peer(), &proposals);
        let ids: Vec<u8> = request.presentation_contexts.iter().map(|context| context.id).collect();
        assert_eq!(ids, (1..=255).step_by(2).collect::<Vec<u8>>());
        assert_eq!(request.user.roles.len(), 2);
    }

    #[test]
    fn only_what_was_proposed_counts_as_accepted() {
        let result = |id, result, syntax: &str| ContextResult { id, result, transfer_syntax: syntax.into() };
        let accept = AssociateAccept {
            presentation_contexts: vec![
                result(1, 0, "1.2.840.10008.1.2.1"),
                result(3, 0, "1.2.840.10008.1.2.2"),
                result(5, 3, "1.2.840.10008.1.2"),
                result(2, 0, "1.2.840.10008.1.2"),
                result(255, 0, "1.2.840.10008.1.2"),
            ],
            ..AssociateAccept::default()
        };
        let proposals = [proposal("1.1", false), proposal("1.2", false), proposal("1.3", false)];
        let ids: Vec<u8> = accepted(&proposals, &accept).iter().map(|context| context.id).collect();
        assert_eq!(ids, [1]);
    }

    #[test]
    fn a_rejection_says_what_to_do() {
        assert!(rejection(&peer(), 1, 1, 3).contains("calling AE title RELAYPACS: register it"));
        assert!(rejection(&peer(), 1, 1, 7).contains("called AE title ARCHIVE"));
        assert!(rejection(&peer(), 2, 3, 2).contains("for now"));
        assert!(rejection(&peer(), 9, 9, 9).contains("9/9/9"));
    }
}
