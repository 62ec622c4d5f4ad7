//! What the log says: entries (what was received) and facts (what became of it).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::dicom::{AeTitle, Attributes, InstanceKey, Uid};

/// Names an entry for good: the sequence number of the record that first received it. It keeps
/// it when its record is copied forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub u64);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the log; totally ordered, also across recycled segments. Opaque outside the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct LogPosition(pub u64);

/// SHA-256 of a data set as received, without preamble and file meta.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)?;
        Ok(Self(digest))
    }
}

/// Which door an object came through, and whose it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "door", rename_all = "lowercase")]
pub enum Origin {
    /// A C-STORE. `peer` is the remote IP address.
    Dimse { calling_ae_title: AeTitle, called_ae_title: AeTitle, peer: std::net::IpAddr },
    /// A STOW-RS request. `account` is the id of the API key; `peer` the remote address, when known.
    Stow { account: String, peer: Option<std::net::IpAddr> },
}

impl Origin {
    /// Source Application Entity Title (0002,0016) of the file meta that we write.
    pub fn source_ae_title(&self) -> Option<&str> {
        match self {
            Origin::Dimse { calling_ae_title, .. } => Some(calling_ae_title.as_str()),
            Origin::Stow { .. } => None,
        }
    }

    /// The `door` of rules and metrics.
    pub fn door(&self) -> &'static str {
        match self {
            Origin::Dimse { .. } => "dimse",
            Origin::Stow { .. } => "stow",
        }
    }
}

/// A received object, as its log record describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpoolEntry {
    pub id: EntryId,
    pub key: InstanceKey,
    pub sop_class_uid: Uid,
    pub transfer_syntax_uid: String,
    pub data_set_sha256: Digest,
    /// Bytes of the data set as received.
    pub data_set_length: u64,
    /// Bytes of our own preamble and file meta in front of it.
    pub prefix_length: u32,
    pub origin: Origin,
    pub received_at: Millis,
    /// Values of the indexed attributes, read once, at ingest.
    pub attributes: Attributes,
    /// The version of the routing rules in force when it was acknowledged.
    pub rule_set: u64,
    /// Same SOP Instance UID as that entry, other content: held, never sent, until a person decides,
    /// or a comparison shows that only the transfer syntax differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_with: Option<EntryId>,
}

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    Received(Box<SpoolEntry>),
    /// The router's decision; an empty list means that no rule or destination took it. Repeated
    /// by backfill and reroute, which add destinations.
    Routed {
        entry: EntryId,
        destinations: Vec<String>,
        at: Millis,
    },
    /// What one attempt, or a person, did to a delivery.
    Delivery {
        entry: EntryId,
        destination: String,
        outcome: Outcome,
        at: Millis,
    },
    /// Asked before our first attempt, the destination did not list the SOP Instance UIDs of these:
    /// from here on they are evidence of what we sent.
    Unlisted {
        entries: Vec<EntryId>,
        destination: String,
        at: Millis,
    },
    /// A storage commitment request, durable before its N-ACTION is sent.
    CommitmentRequested {
        transaction_uid: Uid,
        destination: String,
        entries: Vec<EntryId>,
        at: Millis,
    },
    /// The transaction got its report, or was given up.
    CommitmentClosed {
        transaction_uid: Uid,
        at: Millis,
    },
    /// A conflict was compared with the entry that it conflicts with, and stays one. One that is
    /// found equal is purged instead.
    Compared {
        entry: EntryId,
        finding: Finding,
        at: Millis,
    },
    /// The bytes of an entry may be reused.
    Purged {
        entry: EntryId,
        reason: String,
        at: Millis,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The peer answered success or a warning.
    Sent,
    /// As `Sent`, but an answer by UID proves nothing here: the peer says, or may, hold another
    /// object with this UID. Only a comparison makes it Verified.
    SentUnproven { reason: String },
    /// The peer has proven that it holds the object; `by` is `commitment`, `query` or `comparison`.
    Verified { by: String },
    /// Permanent for this object so far; tried again at `due`.
    Deferred { due: Millis, attempts: u32, reason: String },
    /// Held for a person, after repeated permanent refusals.
    Poisoned { reason: String },
    /// A person, or a lost verification, asks for it to be sent again.
    Requeued,
    /// It was proven, and its sender sent it again: the proof is asked for anew.
    Resent,
    /// A person gave it up.
    Cancelled,
}

/// Why a conflict remains one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// The two objects differ; `at` says where, without values.
    Different { at: String },
    /// Nobody can tell without decoding, or at all.
    Undecidable { reason: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Different { at } => write!(f, "differs at {at}"),
            Finding::Undecidable { reason } => write!(f, "undecidable: {reason}"),
        }
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    Queued,
    Sent,
    Verified,
    Deferred,
    Poisoned,
    Cancelled,
}

/// A delivery of one entry to one destination, as the projection holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub entry: EntryId,
    pub destination: String,
    pub state: DeliveryState,
    /// Permanent refusals so far.
    pub attempts: u32,
    /// When it may be tried next (Queued, Deferred).
    pub due: Millis,
    /// When it reached its state.
    pub since: Millis,
    /// Why it waits, in plain words, without patient data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// See [`Fact::Unlisted`]: not asked for again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlisted: bool,
    /// Only a comparison proves this one, also when it is to be proven again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubted: bool,
}
