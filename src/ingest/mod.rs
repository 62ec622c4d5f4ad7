//! The single way in: [`Ingest::accept`] turns an [`Offer`] of either door into a [`Receipt`] or
//! a [`Refusal`]. `admission` asks whether the source may send and there is room, `validation`
//! whether it is a storable SOP instance that is what the offer claims; the spool makes it durable.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;

pub mod outcome;

pub use outcome::{Receipt, ReceiptOutcome, Refusal};

use crate::dicom::{TransferSyntax, Uid};
use crate::spool::Origin;

/// Bytes as a door hands them on, in order, in chunks of any size. An error means that the peer
/// broke off: nothing is kept.
pub type Chunks<'a> = Pin<&'a mut (dyn Stream<Item = std::io::Result<Bytes>> + Send + 'a)>;

/// What a door offers: one object and where it came from.
pub struct Offer<'a> {
    pub origin: Origin,
    pub form: Form,
    pub bytes: Chunks<'a>,
    /// Total bytes to come, when the door knows; a hint that reserves, never a promise.
    pub expected_length: Option<u64>,
}

/// What the bytes are.
pub enum Form {
    /// A bare data set (PS3.7 §9.1.1): the command set names it.
    DataSet {
        affected_sop_class_uid: Uid,
        affected_sop_instance_uid: Uid,
        transfer_syntax: &'static TransferSyntax,
    },
    /// A Part 10 file (PS3.10 §7): its file meta names it. `study_instance_uid`, when given, is
    /// the study that the request's path demands (PS3.18 §10.5.1).
    Part10 { study_instance_uid: Option<Uid> },
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    _inner: Arc<()>,
}

impl Ingest {
    /// Takes one object. The receipt exists only after its bytes are durable.
    pub async fn accept(&self, _offer: Offer<'_>) -> Result<Receipt, Refusal> {
        todo!()
    }

    /// Whether the node takes objects now: `Err` names why not, for readiness and for refusing a
    /// bulk sender's association early (RJ 2/3/1).
    pub fn ready(&self) -> Result<(), Refusal> {
        todo!()
    }
}
