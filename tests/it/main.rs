//! Integration tests: parts of the node together, against real files, databases and peers.

mod index;
mod scp;
mod support;
