//! (to be written)

pub mod gate;
pub mod peers;
