//! The node as a whole, and the only file that sees all of its parts. `relaypacs serve` and the
//! tests start a [`Node`]; commands that find no running node open its [`Foundation`] alone.

mod foundation;

pub use foundation::{Foundation, open_store};
