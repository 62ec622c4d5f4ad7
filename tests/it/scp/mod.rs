//! The DICOM door as a peer sees it: negotiation, limits, hostile input, storage and query.

mod door;
mod find;
mod limits;
mod messages;
mod negotiation;
mod wire;
