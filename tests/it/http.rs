//! The HTTP door as its clients see it: served on a port of its own, over a real spool and index.

mod harness;
mod protocol;
mod retrieve;
mod search;
mod store;
