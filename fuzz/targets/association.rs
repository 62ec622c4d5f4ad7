//! A-ASSOCIATE-RQ and -AC with their variable items (PS3.8 §9.3.2, §9.3.3; PS3.7 annex D), and what
//! negotiation makes of a request.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use relaypacs::config::DicomConfig;
use relaypacs::dicom::TransferSyntaxes;
use relaypacs::dimse::associate::{
    APPLICATION_CONTEXT, AssociateAccept, AssociateRequest, ContextResult, MOST_CONTEXTS, ProposedContext,
    RoleSelection, UserIdentity, UserInformation,
};
use relaypacs::dimse::pdu::MAX_ASSOCIATION_PDU;
use relaypacs::scp::negotiation::Negotiator;
use relaypacs::scp::peers::PeerTable;

use super::split;

/// The first byte chooses which of the two it is.
pub fn run(data: &[u8]) {
    let (choice, body) = split(data);
    if choice % 2 == 0 {
        check_request(body);
    } else {
        check_accept(body);
    }
}

/// An item's length has two bytes: what fits into one is written as it was read.
const ITEM: usize = 0xFFFF;

fn check_request(body: &[u8]) {
    let Ok(request) = AssociateRequest::decode(body) else { return };
    super::plant(|| request.user.max_length == 0xBADC_0DE5 && request.user.async_operations.is_some());
    assert_eq!(request.echoed, body[4..68]);
    let written = request.encode();
    let again = AssociateRequest::decode(&written).expect("what we wrote");
    if body.is_ascii() && body.len() < ITEM {
        // The version is ours, and an identity is not sent.
        let mut expected =
            AssociateRequest { protocol_version: 1, echoed: again.echoed.clone(), ..request.clone() };
        expected.user.user_identity = again.user.user_identity;
        assert_eq!(again, expected);
    }
    negotiate(&request);
}

fn negotiate(request: &AssociateRequest) {
    let known = [&request.called_ae_title, &request.calling_ae_title];
    if let Ok(agreement) =
        negotiator().negotiate(request, IpAddr::V4(Ipv4Addr::LOCALHOST), &PeerTable::default(), |_| true)
    {
        let accept = &agreement.accept;
        assert_eq!(known, [agreement.called_ae_title.as_str(), agreement.calling_ae_title.as_str()]);
        assert_eq!(accept.presentation_contexts.len(), request.presentation_contexts.len());
        assert!(accept.presentation_contexts.len() <= MOST_CONTEXTS);
        assert_eq!(accept.echoed, request.echoed);
        for context in &agreement.contexts {
            let proposed = request.presentation_contexts.iter().find(|other| other.id == context.id);
            let proposed = proposed.expect("nobody proposed this context");
            assert!(proposed.transfer_syntaxes.iter().any(|uid| uid == context.transfer_syntax.uid));
        }
        let written = accept.encode();
        assert!(written.len() <= MAX_ASSOCIATION_PDU as usize);
        let mut read = AssociateAccept::decode(&written).expect("what we wrote");
        read.user.user_identity = accept.user.user_identity;
        assert_eq!(read, *accept, "the peer reads what we meant");
    }
}

fn negotiator() -> &'static Negotiator {
    static NEGOTIATOR: OnceLock<Negotiator> = OnceLock::new();
    NEGOTIATOR.get_or_init(|| {
        let config: DicomConfig = serde_json::from_value(serde_json::json!({
            "ae_title": "RELAYPACS", "listen": "127.0.0.1:11112", "admission": "any", "open_listener": false,
            "unknown_sop_classes": "accept", "private_transfer_syntaxes": [], "transfer_syntax_preference": [],
        }))
        .expect("a configuration");
        Negotiator::new(Arc::new(config), TransferSyntaxes::default(), 128 << 10)
    })
}

fn check_accept(body: &[u8]) {
    let Ok(accept) = AssociateAccept::decode(body) else { return };
    assert_eq!(accept.echoed, body[4..68]);
    let again = AssociateAccept::decode(&accept.encode()).expect("what we wrote");
    if body.is_ascii() && body.len() < ITEM {
        let mut expected = accept;
        expected.user.user_identity = again.user.user_identity;
        assert_eq!(again, expected);
    }
}

pub fn request() -> Vec<u8> {
    let context = |id, abstract_syntax: &str, syntaxes: &[&str]| ProposedContext {
        id,
        abstract_syntax: abstract_syntax.into(),
        transfer_syntaxes: syntaxes.iter().map(|uid| (*uid).into()).collect(),
    };
    let request = AssociateRequest {
        called_ae_title: "RELAYPACS".into(),
        calling_ae_title: "CT_1".into(),
        application_context: APPLICATION_CONTEXT.into(),
        presentation_contexts: vec![
            context(1, "1.2.840.10008.1.1", &["1.2.840.10008.1.2"]),
            context(3, "1.2.840.10008.5.1.4.1.1.2", &["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"]),
            context(5, "1.2.840.10008.1.20.1", &["1.2.840.10008.1.2"]),
        ],
        user: user(),
        ..Default::default()
    };
    let mut body = request.encode();
    // User identity is read, never written: into the user item, which is the last one.
    body.extend_from_slice(b"\x58\0\0\x0E\x02\x01\0\x04user\0\x04pass");
    let item = 68 + body[68..].windows(3).rposition(|bytes| bytes == [0x50, 0, 0]).expect("a user item");
    let length = (body.len() - item - 4) as u16;
    body[item + 2..item + 4].copy_from_slice(&length.to_be_bytes());
    body
}

pub fn accept() -> Vec<u8> {
    let context = |id, result, uid: &str| ContextResult { id, result, transfer_syntax: uid.into() };
    let accept = AssociateAccept {
        echoed: request()[4..68].to_vec(),
        application_context: APPLICATION_CONTEXT.into(),
        presentation_contexts: vec![context(1, 0, "1.2.840.10008.1.2"), context(3, 3, "1.2.840.10008.1.2")],
        user: UserInformation {
            user_identity: Some(UserIdentity { kind: 1, positive_response_requested: true }),
            ..user()
        },
    };
    accept.encode()
}

fn user() -> UserInformation {
    UserInformation {
        max_length: 16_384,
        implementation_class_uid: Some("1.2.3.4".into()),
        implementation_version_name: Some("SEED_1".into()),
        async_operations: Some((1, 1)),
        roles: vec![RoleSelection { sop_class_uid: "1.2.840.10008.1.20.1".into(), scu: false, scp: true }],
        user_identity: None,
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let unknown = [&[0][..], &request(), b"\x99\0\0\x03abc"].concat();
    vec![[&[0][..], &request()].concat(), [&[1][..], &accept()].concat(), unknown]
}
