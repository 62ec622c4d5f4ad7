//! One function per metric of the public list. Callers name what happened; the names, kinds and
//! buckets are here. Instruments are process-wide, because metrics describe the process.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use super::gauges;

/// From half a millisecond, less than which no sync takes, to what a person would call broken.
const ANSWER_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A delivery takes from a blink to a weekend.
const DELIVERY_SECONDS: [f64; 13] =
    [0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 259_200.0];
const BATCH_RECORDS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

struct Metrics {
    registry: Registry,
    /// Instruments report only while it lives.
    _provider: SdkMeterProvider,
    instruments: Option<Instruments>,
}

struct Instruments {
    associations_total: Counter<u64>,
    association_active: UpDownCounter<i64>,
    dimse_requests_total: Counter<u64>,
    instances_received_total: Counter<u64>,
    bytes_received_total: Counter<u64>,
    ack_seconds: Histogram<f64>,
    spool_commit_seconds: Histogram<f64>,
    spool_batch_size: Histogram<u64>,
    conflicts_compared_total: Counter<u64>,
    delivery_attempts_total: Counter<u64>,
    delivery_seconds: Histogram<f64>,
    http_requests_total: Counter<u64>,
    http_request_seconds: Histogram<f64>,
    cache_hits_total: Counter<u64>,
    cache_misses_total: Counter<u64>,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        // Names are public and must not drift: nothing is added to them.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .with_namespace("relaypacs")
            .without_counter_suffixes()
            .without_units()
            .without_target_info()
            .scope_info_enabled(false)
            .build();
        let Ok(exporter) = exporter else {
            // The node's work does not depend on being measured.
            tracing::error!("metrics are off: their exporter could not be built");
            let provider = SdkMeterProvider::builder().build();
            return Self { registry, _provider: provider, instruments: None };
        };
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("relaypacs");
        let instruments = Instruments::new(&meter);
        gauges::register(&meter);
        Self { registry, _provider: provider, instruments: Some(instruments) }
    }
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str| meter.u64_counter(name).build();
        let seconds = |name: &'static str, buckets: &[f64]| {
            meter.f64_histogram(name).with_boundaries(buckets.to_vec()).build()
        };
        Self {
            associations_total: counter("associations_total"),
            association_active: meter.i64_up_down_counter("association_active").build(),
            dimse_requests_total: counter("dimse_requests_total"),
            instances_received_total: counter("instances_received_total"),
            bytes_received_total: counter("bytes_received_total"),
            ack_seconds: seconds("ack_seconds", &ANSWER_SECONDS),
            spool_commit_seconds: seconds("spool_commit_seconds", &ANSWER_SECONDS),
            spool_batch_size: meter
                .u64_histogram("spool_batch_size")
                .with_boundaries(BATCH_RECORDS.to_vec())
                .build(),
            conflicts_compared_total: counter("conflicts_compared_total"),
            delivery_attempts_total: counter("delivery_attempts_total"),
            delivery_seconds: seconds("delivery_seconds", &DELIVERY_SECONDS),
            http_requests_total: counter("http_requests_total"),
            http_request_seconds: seconds("http_request_seconds", &ANSWER_SECONDS),
            cache_hits_total: counter("cache_hits_total"),
            cache_misses_total: counter("cache_misses_total"),
        }
    }
}

fn with(record: impl FnOnce(&Instruments)) {
    if let Some(instruments) = &METRICS.instruments {
        record(instruments);
    }
}

fn label(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, value.to_owned())
}

/// Everything, as Prometheus text.
pub fn encode() -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&METRICS.registry.gather())
}

/// `associations_total{peer,result}`: result is `released`, `aborted`, `rejected` or `failed`.
pub fn association_ended(peer: &str, result: &'static str) {
    with(|i| i.associations_total.add(1, &[label("peer", peer), KeyValue::new("result", result)]));
}

/// `association_active`
pub fn association_active(change: i64) {
    with(|i| i.association_active.add(change, &[]));
}

/// `dimse_requests_total{service,status}`
pub fn dimse_request(service: &'static str, status: u16) {
    let status = KeyValue::new("status", format!("{status:04X}"));
    with(|i| i.dimse_requests_total.add(1, &[KeyValue::new("service", service), status]));
}

/// `instances_received_total{door,outcome}` and `bytes_received_total{door}`: outcome is `new`,
/// `duplicate`, `conflict` or a refusal's code; `COMMAND` is a C-STORE whose command set alone was
/// reason to refuse it.
pub fn received(door: &'static str, outcome: &'static str, bytes: u64) {
    let door = KeyValue::new("door", door);
    with(|i| {
        i.bytes_received_total.add(bytes, std::slice::from_ref(&door));
        i.instances_received_total.add(1, &[door, KeyValue::new("outcome", outcome)]);
    });
}

/// `ack_seconds{door}`: last byte to answer.
pub fn ack_seconds(door: &'static str, seconds: f64) {
    with(|i| i.ack_seconds.record(seconds, &[KeyValue::new("door", door)]));
}

/// `spool_commit_seconds` and `spool_batch_size`
pub fn spool_commit(seconds: f64, records: usize) {
    with(|i| {
        i.spool_commit_seconds.record(seconds, &[]);
        i.spool_batch_size.record(records as u64, &[]);
    });
}

/// `conflicts_compared_total{finding}`: `equal`, `different` or `undecidable`.
pub fn conflict_compared(finding: &'static str) {
    with(|i| i.conflicts_compared_total.add(1, &[KeyValue::new("finding", finding)]));
}

/// `delivery_attempts_total{destination,result}`
pub fn delivery_attempt(destination: &str, result: &'static str) {
    let labels = [label("destination", destination), KeyValue::new("result", result)];
    with(|i| i.delivery_attempts_total.add(1, &labels));
}

/// `delivery_seconds{destination,stage}`: received to `sent` or `verified`.
pub fn delivery_seconds(destination: &str, stage: &'static str, seconds: f64) {
    let labels = [label("destination", destination), KeyValue::new("stage", stage)];
    with(|i| i.delivery_seconds.record(seconds, &labels));
}

/// `http_requests_total{route,method,status}` and `http_request_seconds{route}`
pub fn http_request(route: &str, method: &str, status: u16, seconds: f64) {
    let route = label("route", route);
    with(|i| {
        i.http_request_seconds.record(seconds, std::slice::from_ref(&route));
        let status = KeyValue::new("status", i64::from(status));
        i.http_requests_total.add(1, &[route, label("method", method), status]);
    });
}

/// `cache_hits_total{cache}` or `cache_misses_total{cache}`
pub fn cache(cache: &'static str, hit: bool) {
    let cache = [KeyValue::new("cache", cache)];
    with(|i| {
        let counter = if hit { &i.cache_hits_total } else { &i.cache_misses_total };
        counter.add(1, &cache);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_metric_is_shown_by_its_public_name() {
        association_ended("unknown", "released");
        association_active(1);
        dimse_request("C-STORE", 0xA700);
        received("dimse", "new", 10);
        ack_seconds("dimse", 0.004);
        spool_commit(0.002, 3);
        delivery_attempt("pacs", "sent");
        delivery_seconds("pacs", "sent", 2.0);
        http_request("/health/live", "GET", 200, 0.001);
        cache("queries", true);
        cache("queries", false);
        gauges::show(gauges::Snapshot {
            spool_bytes: 1,
            spool_objects: 2,
            spool_capacity_ratio: 0.25,
            acked_object_missing: 6,
            index_lag_seconds: 0.5,
            destinations: vec![gauges::DestinationGauges {
                name: "pacs".into(),
                up: true,
                oldest_undelivered_seconds: 3.0,
                deliveries: vec![("queued", 4)],
            }],
        });
        let text = encode().unwrap();
        for line in [
            "relaypacs_associations_total{peer=\"unknown\",result=\"released\"} 1",
            "relaypacs_association_active 1",
            "relaypacs_dimse_requests_total{service=\"C-STORE\",status=\"A700\"} 1",
            "relaypacs_instances_received_total{door=\"dimse\",outcome=\"new\"} 1",
            "relaypacs_bytes_received_total{door=\"dimse\"} 10",
            "relaypacs_ack_seconds_bucket{door=\"dimse\",le=\"0.005\"} 1",
            // Other tests of this process commit too.
            "relaypacs_spool_commit_seconds_count ",
            "relaypacs_spool_batch_size_sum ",
            "relaypacs_delivery_attempts_total{destination=\"pacs\",result=\"sent\"} 1",
            "relaypacs_delivery_seconds_count{destination=\"pacs\",stage=\"sent\"} 1",
            "relaypacs_http_requests_total{method=\"GET\",route=\"/health/live\",status=\"200\"} 1",
            "relaypacs_http_request_seconds_count{route=\"/health/live\"} 1",
            "relaypacs_cache_hits_total{cache=\"queries\"} 1",
            "relaypacs_cache_misses_total{cache=\"queries\"} 1",
            "relaypacs_spool_bytes 1",
            "relaypacs_spool_objects 2",
            "relaypacs_spool_capacity_ratio 0.25",
            "relaypacs_acked_object_missing 6",
            "relaypacs_index_lag_seconds 0.5",
            "relaypacs_deliveries{destination=\"pacs\",state=\"queued\"} 4",
            "relaypacs_oldest_undelivered_seconds{destination=\"pacs\"} 3",
            "relaypacs_destination_up{destination=\"pacs\"} 1",
        ] {
            assert!(
                text.lines().any(|shown| shown == line || line.ends_with(' ') && shown.starts_with(line)),
                "{line}\nnot in\n{text}"
            );
        }
    }
}
