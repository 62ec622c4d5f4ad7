//! Negotiation (PS3.8 §9.3, PS3.7 annex D): from an A-ASSOCIATE-RQ to what the association may do,
//! or to the refusal that its sender hears. The association task calls it once; it does no I/O
//! and counts nothing: places are the gate's.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Admission, DicomConfig, UnknownSopClasses, is_loopback};
use crate::dicom::sop_class::{self, PATIENT_ROOT_FIND, STUDY_ROOT_FIND, VERIFICATION};
use crate::dicom::transfer_syntax::IMPLICIT_LITTLE_ENDIAN;
use crate::dicom::{AeTitle, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::dicom::{TransferSyntax, TransferSyntaxes, Uid};
use crate::dimse::associate::{
    APPLICATION_CONTEXT, AssociateAccept, AssociateRequest, ContextResult, ProposedContext, RoleSelection,
    UserInformation,
};

use crate::dimse::commitment_report::SOP_CLASS as STORAGE_COMMITMENT_PUSH_MODEL;
use crate::dimse::message::outgoing_pdu_length;

use super::peers::{PeerTable, Standing};

/// What a presentation context is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Verification,
    Storage,
    PatientRootFind,
    StudyRootFind,
    /// We are the SCU of Storage Commitment; the peer, its SCP, reports (PS3.4 §J.3.3).
    CommitmentReport,
}

/// An accepted presentation context.
#[derive(Debug, Clone)]
pub struct Context {
    pub id: u8,
    pub service: Service,
    pub abstract_syntax: String,
    pub transfer_syntax: &'static TransferSyntax,
}

/// What was agreed.
#[derive(Debug)]
pub struct Agreement {
    pub calling_ae_title: AeTitle,
    pub called_ae_title: AeTitle,
    /// In the peer table, or a destination: its title may name a metric.
    pub listed: bool,
    pub contexts: Vec<Context>,
    /// Largest P-DATA-TF that we may send.
    pub max_outgoing_pdu: u32,
    pub accept: AssociateAccept,
}

/// A-ASSOCIATE-RJ (PS3.8 §9.3.4), and for the log what happened and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    pub result: u8,
    pub source: u8,
    pub reason: u8,
    pub why: &'static str,
    pub advice: &'static str,
}

const fn rejection(code: [u8; 3], why: &'static str, advice: &'static str) -> Rejection {
    Rejection { result: code[0], source: code[1], reason: code[2], why, advice }
}

impl Rejection {
    pub const PROTOCOL_VERSION: Self = rejection(
        [1, 2, 2],
        "protocol version 1 is not among those offered",
        "the peer does not speak the DICOM upper layer protocol of PS3.8",
    );
    pub const APPLICATION_CONTEXT: Self = rejection(
        [1, 1, 2],
        "the application context is not DICOM's",
        "the peer must propose 1.2.840.10008.3.1.1.1",
    );
    pub const CALLED_AE_TITLE: Self = rejection(
        [1, 1, 7],
        "called AE title not recognized",
        "correct the title at the peer, or add it to dicom.ae_title",
    );
    pub const INVALID_CALLING_AE_TITLE: Self =
        rejection([1, 1, 3], "the calling AE title is not an AE title", "correct the title at the peer");
    pub const UNKNOWN_CALLING_AE_TITLE: Self = rejection(
        [1, 1, 3],
        "calling AE title not recognized",
        "if this peer should be served, add it: relaypacs peer add",
    );
    pub const WRONG_ADDRESS: Self = rejection(
        [1, 1, 3],
        "the calling AE title is listed, but not for this address (security alert)",
        "if the peer has moved, change its `allow`; otherwise somebody uses its title",
    );
    pub const NODE_FULL: Self = rejection(
        [2, 3, 2],
        "all associations of this node are taken",
        "raise limits.associations, or look for peers that do not release",
    );
    pub const PEER_FULL: Self = rejection(
        [2, 3, 1],
        "this peer holds all associations that one peer may have",
        "raise limits.associations_per_peer, or let the peer open fewer at a time",
    );
    pub const TOO_FAST: Self = rejection(
        [2, 3, 1],
        "this address opens connections faster than limits.connections_per_second",
        "look for a peer that connects in a loop",
    );
    pub const NOT_READY: Self =
        rejection([2, 3, 1], "this node takes no objects now", "see its readiness: /health/ready");
    pub const DRAINING: Self =
        rejection([2, 3, 1], "this node is stopping", "the peer may try again once it is back");
}

/// Why there is no agreement.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Reject(Rejection),
    /// The request is malformed: A-ABORT, because PS3.8 has no rejection for it.
    Malformed(&'static str),
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Refused::Reject(rejection)
    }
}

/// How this node negotiates: its configuration, digested once at start.
pub struct Negotiator {
    config: Arc<DicomConfig>,
    admission: Admission,
    transfer_syntaxes: TransferSyntaxes,
    max_pdu: u32,
}

/// Who is asking, as far as the node knows.
struct Admitted {
    listed: bool,
    reporter: bool,
    sender: bool,
}

impl Negotiator {
    pub fn new(config: Arc<DicomConfig>, transfer_syntaxes: TransferSyntaxes, max_pdu: u32) -> Self {
        let only_loopback = config.listen.iter().all(|address| is_loopback(address.ip()));
        let default = if only_loopback { Admission::Any } else { Admission::Known };
        let admission = config.admission.unwrap_or(default);
        Self { config, admission, transfer_syntaxes, max_pdu }
    }

    /// The Maximum Length that is announced.
    pub fn max_pdu(&self) -> u32 {
        self.max_pdu
    }

    /// `may_report` says whether an AE title is a destination of ours.
    pub fn negotiate(
        &self,
        request: &AssociateRequest,
        address: IpAddr,
        peers: &PeerTable,
        may_report: impl Fn(&AeTitle) -> bool,
    ) -> Result<Agreement, Refused> {
        // Only bit 0 is looked at (PS3.8 §9.3.2).
        if request.protocol_version & 1 == 0 {
            return Err(Rejection::PROTOCOL_VERSION.into());
        }
        check_context_ids(&request.presentation_contexts)?;
        if request.application_context != APPLICATION_CONTEXT {
            return Err(Rejection::APPLICATION_CONTEXT.into());
        }
        let called_ae_title = self.called(&request.called_ae_title)?;
        let calling_ae_title = AeTitle::parse(&request.calling_ae_title)
            .map_err(|_| Refused::Reject(Rejection::INVALID_CALLING_AE_TITLE))?;
        let admitted =
            self.admit(peers.standing(&calling_ae_title, address), may_report(&calling_ae_title))?;

        let mut contexts = Vec::new();
        let mut results = Vec::with_capacity(request.presentation_contexts.len());
        for proposed in &request.presentation_contexts {
            let answer = self.answer(proposed, &request.user.roles, &admitted);
            results.push(ContextResult {
                id: proposed.id,
                result: answer.as_ref().err().copied().unwrap_or(0),
                transfer_syntax: match &answer {
                    Ok(context) => context.transfer_syntax.uid.to_owned(),
                    Err(_) => IMPLICIT_LITTLE_ENDIAN.to_owned(),
                },
            });
            contexts.extend(answer);
        }
        let roles = answered_roles(request, &contexts);
        Ok(Agreement {
            listed: admitted.listed || admitted.reporter,
            max_outgoing_pdu: outgoing_pdu_length(request.user.max_length),
            accept: AssociateAccept {
                echoed: request.echoed.clone(),
                application_context: APPLICATION_CONTEXT.to_owned(),
                presentation_contexts: results,
                user: self.user_information(request, roles),
            },
            calling_ae_title,
            called_ae_title,
            contexts,
        })
    }

    fn called(&self, title: &str) -> Result<AeTitle, Rejection> {
        let title = AeTitle::parse(title).map_err(|_| Rejection::CALLED_AE_TITLE)?;
        if self.config.ae_title.contains(&title) { Ok(title) } else { Err(Rejection::CALLED_AE_TITLE) }
    }

    fn admit(&self, standing: Standing, reporter: bool) -> Result<Admitted, Rejection> {
        let listed = standing == Standing::Known;
        match (self.admission, standing) {
            (_, Standing::WrongAddress) => Err(Rejection::WRONG_ADDRESS),
            (Admission::Any, _) | (_, Standing::Known) => Ok(Admitted { listed, reporter, sender: true }),
            (Admission::Known, Standing::Unknown) if reporter => {
                Ok(Admitted { listed, reporter, sender: false })
            }
            (Admission::Known, Standing::Unknown) => Err(Rejection::UNKNOWN_CALLING_AE_TITLE),
        }
    }

    /// The context as accepted, or the result with which it is refused (PS3.8 §9.3.3.2).
    fn answer(
        &self,
        proposed: &ProposedContext,
        roles: &[RoleSelection],
        admitted: &Admitted,
    ) -> Result<Context, u8> {
        const ABSTRACT_SYNTAX_NOT_SUPPORTED: u8 = 3;
        const TRANSFER_SYNTAXES_NOT_SUPPORTED: u8 = 4;
        let service =
            self.service(&proposed.abstract_syntax, roles, admitted).ok_or(ABSTRACT_SYNTAX_NOT_SUPPORTED)?;
        let transfer_syntax =
            self.choose(service, &proposed.transfer_syntaxes).ok_or(TRANSFER_SYNTAXES_NOT_SUPPORTED)?;
        Ok(Context {
            id: proposed.id,
            service,
            abstract_syntax: proposed.abstract_syntax.clone(),
            transfer_syntax,
        })
    }

    fn service(
        &self,
        abstract_syntax: &str,
        roles: &[RoleSelection],
        admitted: &Admitted,
    ) -> Option<Service> {
        let sender = |service| admitted.sender.then_some(service);
        match abstract_syntax {
            VERIFICATION => return Some(Service::Verification),
            PATIENT_ROOT_FIND => return sender(Service::PatientRootFind),
            STUDY_ROOT_FIND => return sender(Service::StudyRootFind),
            STORAGE_COMMITMENT_PUSH_MODEL => {
                let as_scp = roles.iter().any(|role| role.sop_class_uid == abstract_syntax && role.scp);
                return (admitted.reporter && as_scp).then_some(Service::CommitmentReport);
            }
            _ => {}
        }
        Uid::parse(abstract_syntax).ok()?;
        let storable = match sop_class::kind(abstract_syntax) {
            sop_class::Kind::Storage => true,
            sop_class::Kind::Other => false,
            sop_class::Kind::Unknown => self.config.unknown_sop_classes == UnknownSopClasses::Accept,
        };
        if storable { sender(Service::Storage) } else { None }
    }

    /// The configured order first, then the order in which the peer offers.
    fn choose(&self, service: Service, offered: &[String]) -> Option<&'static TransferSyntax> {
        let usable = |uid: &str| {
            let ours = match service {
                Service::Storage => self.transfer_syntaxes.by_uid(uid),
                // Identifiers and reports are read, not stored: the native syntaxes.
                _ => TransferSyntax::by_uid(uid).filter(|syntax| !syntax.is_encapsulated()),
            };
            ours.filter(|_| offered.iter().any(|other| other == uid))
        };
        let preferred = self.config.transfer_syntax_preference.iter();
        preferred.chain(offered).find_map(|uid| usable(uid))
    }

    fn user_information(&self, request: &AssociateRequest, roles: Vec<RoleSelection>) -> UserInformation {
        UserInformation {
            max_length: self.max_pdu,
            implementation_class_uid: Some(IMPLEMENTATION_CLASS_UID.to_owned()),
            implementation_version_name: Some(IMPLEMENTATION_VERSION_NAME.to_owned()),
            // Asynchronous operations are not supported; the item answers only one proposed
            // (PS3.7 §D.3.3.3.2).
            async_operations: request.user.async_operations.map(|_| (1, 1)),
            roles,
            user_identity: request.user.user_identity,
        }
    }
}

/// Presentation context ids are odd and unique, so there are at most 128 (PS3.8 §9.3.2.2).
fn check_context_ids(contexts: &[ProposedContext]) -> Result<(), Refused> {
    if contexts.is_empty() {
        return Err(Refused::Malformed("no presentation context is proposed"));
    }
    let mut seen = HashSet::new();
    for context in contexts {
        if context.id % 2 == 0 {
            return Err(Refused::Malformed("a presentation context id is even"));
        }
        if !seen.insert(context.id) {
            return Err(Refused::Malformed("a presentation context id is used twice"));
        }
    }
    Ok(())
}

/// One answer per proposed role of a proposed SOP class (PS3.7 §D.3.3.4): the requestor may be SCU
/// of what we serve, and SCP only of storage commitment, of which we are SCU.
fn answered_roles(request: &AssociateRequest, contexts: &[Context]) -> Vec<RoleSelection> {
    let mut answered = Vec::new();
    let mut seen = HashSet::new();
    for role in &request.user.roles {
        let accepted = contexts.iter().find(|context| context.abstract_syntax == role.sop_class_uid);
        let Some(context) = accepted else { continue };
        if !seen.insert(role.sop_class_uid.as_str()) {
            continue;
        }
        let reports = context.service == Service::CommitmentReport;
        answered.push(RoleSelection {
            sop_class_uid: role.sop_class_uid.clone(),
            scu: role.scu && !reports,
            scp: role.scp && reports,
        });
    }
    answered
}
