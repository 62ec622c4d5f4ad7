//! Tracing setup, and every metric in one place. Labels never carry a UID, a patient, or an AE
//! title that is not configured (those are `unknown`).

/// One function per metric of the public list.
pub mod metrics {
    /// `associations_total{peer,result}`: result is `released`, `aborted`, `rejected` or `failed`.
    pub fn association_ended(_peer: &str, _result: &'static str) {}
    /// `association_active`
    pub fn association_active(_change: i64) {}
    /// `dimse_requests_total{service,status}`
    pub fn dimse_request(_service: &'static str, _status: u16) {}
    /// `instances_received_total{door,outcome}` and `bytes_received_total{door}`: outcome is
    /// `new`, `duplicate`, `conflict` or a refusal's code.
    pub fn received(_door: &'static str, _outcome: &'static str, _bytes: u64) {}
    /// `ack_seconds{door}`: last byte to answer.
    pub fn ack_seconds(_door: &'static str, _seconds: f64) {}
    /// `spool_commit_seconds` and `spool_batch_size`
    pub fn spool_commit(_seconds: f64, _records: usize) {}
    /// `acked_object_missing`: a loss; pages somebody.
    pub fn acked_object_missing() {}
    /// `delivery_attempts_total{destination,result}`
    pub fn delivery_attempt(_destination: &str, _result: &'static str) {}
    /// `delivery_seconds{destination,stage}`: received to `sent` or `verified`.
    pub fn delivery_seconds(_destination: &str, _stage: &'static str, _seconds: f64) {}
    /// `http_requests_total{route,method,status}` and `http_request_seconds{route}`
    pub fn http_request(_route: &str, _method: &str, _status: u16, _seconds: f64) {}
    /// `cache_hits_total{cache}` or `cache_misses_total{cache}`
    pub fn cache(_cache: &'static str, _hit: bool) {}
}
