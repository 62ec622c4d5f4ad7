//! How the node tells what it does: log lines ([`logging`]), metrics ([`metrics`] as they happen,
//! [`gauges`] when asked) and the listener that shows them ([`listener`]). Labels never carry a
//! UID, a patient, or an AE title that is not configured (those are `unknown`).

pub mod gauges;
pub mod listener;
pub mod logging;
pub mod metrics;
