//! The DIMSE protocol (PS3.7, PS3.8), both sides, without policy: PDU framing over a stream,
//! messages, command sets, and the outgoing association. Of `dicom_ul` this uses little: the type
//! of the PDUs that have no content of interest, and how releases are read and written. Association
//! PDUs are [`associate`]'s, and P-DATA-TF is framed here so that data fragments are never copied.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

pub mod associate;
pub mod command;
pub mod commitment_report;
pub mod message;
pub mod pdu;
pub mod scu;

/// The bytes of an object, in order, in chunks of any size. An error means that their source broke
/// off: what came so far is not the object.
pub type Chunks<'a> = Pin<&'a mut (dyn Stream<Item = std::io::Result<Bytes>> + Send + 'a)>;
