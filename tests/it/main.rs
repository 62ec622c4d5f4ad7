//! Tests of the node as a whole: real parts in one process, on ports that the system chooses, and
//! the binary where the process itself is the subject. What peers of other makes see is tested in
//! `conformance/`.

mod commands;
mod corpus;
mod dimse;
mod documents;
mod forward;
mod http;
mod index;
mod process;
mod reindex;
mod scp;
mod store_and_forward;
mod support;
