//! The HTTP door: DICOMweb and health, served by poem's routes over our own accept loop.
//!
//! `router` lists every address with the scope that it asks for; nothing is open but health.
//! Handlers parse, make one call inward, and answer; they never touch the log or SQL, and they
//! never meet the DIMSE door.

pub mod api;
pub mod body;
pub mod dicomweb;
pub mod error;
mod head_watch;
pub mod health;
pub mod principal;
pub mod router;
pub mod server;
pub mod socket;
pub mod state;

pub use api::Api;
pub use dicomweb::{MetadataMemory, PartBuffers};
pub use server::serve;
pub use state::{HttpState, Probe};
