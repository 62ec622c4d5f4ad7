//! The DIMSE protocol (PS3.7, PS3.8), both sides, without policy: PDU framing over a stream,
//! messages, command sets, and the outgoing association. `dicom_ul` encodes and decodes every PDU
//! but P-DATA-TF, which is framed here so that data fragments are never copied.

pub mod associate;
pub mod command;
pub mod commitment_report;
pub mod message;
pub mod pdu;
pub mod scu;
