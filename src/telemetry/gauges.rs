//! Metrics that are states, not events. [`crate::node`] gathers a [`Snapshot`] when a scrape asks
//! for one, and the observable gauges show the last that was gathered: a destination that is gone
//! is gone from the next scrape too.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use parking_lot::RwLock;

/// The gauges' values at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub spool_bytes: u64,
    pub spool_objects: u64,
    /// Share of the spool's file system in use.
    pub spool_capacity_ratio: f64,
    /// Acknowledged objects that can't be read any more: a loss, pages somebody.
    pub acked_object_missing: u64,
    /// Age of the oldest fact that the index has not seen.
    pub index_lag_seconds: f64,
    pub destinations: Vec<DestinationGauges>,
}

#[derive(Debug, Clone, Default)]
pub struct DestinationGauges {
    pub name: String,
    pub up: bool,
    pub oldest_undelivered_seconds: f64,
    /// State and count.
    pub deliveries: Vec<(&'static str, u64)>,
}

static SHOWN: RwLock<Option<Arc<Snapshot>>> = RwLock::new(None);

/// What the gauges show from now on.
pub fn show(snapshot: Snapshot) {
    *SHOWN.write() = Some(Arc::new(snapshot));
}

/// Ties the gauges' names to the snapshot; they live as long as the meter's provider.
pub(super) fn register(meter: &Meter) {
    number(meter, "spool_bytes", |snapshot| snapshot.spool_bytes as f64);
    number(meter, "spool_objects", |snapshot| snapshot.spool_objects as f64);
    number(meter, "spool_capacity_ratio", |snapshot| snapshot.spool_capacity_ratio);
    number(meter, "acked_object_missing", |snapshot| snapshot.acked_object_missing as f64);
    number(meter, "index_lag_seconds", |snapshot| snapshot.index_lag_seconds);
    per_destination(meter, "destination_up", |destination| f64::from(u8::from(destination.up)));
    per_destination(meter, "oldest_undelivered_seconds", |destination| {
        destination.oldest_undelivered_seconds
    });
    deliveries(meter);
}

fn number(meter: &Meter, name: &'static str, value: fn(&Snapshot) -> f64) {
    let gauge = meter.f64_observable_gauge(name).with_callback(move |observer| {
        if let Some(snapshot) = SHOWN.read().clone() {
            observer.observe(value(&snapshot), &[]);
        }
    });
    gauge.build();
}

fn per_destination(meter: &Meter, name: &'static str, value: fn(&DestinationGauges) -> f64) {
    let gauge = meter.f64_observable_gauge(name).with_callback(move |observer| {
        let Some(snapshot) = SHOWN.read().clone() else { return };
        for destination in &snapshot.destinations {
            let label = KeyValue::new("destination", destination.name.clone());
            observer.observe(value(destination), &[label]);
        }
    });
    gauge.build();
}

fn deliveries(meter: &Meter) {
    let gauge = meter.u64_observable_gauge("deliveries").with_callback(|observer| {
        let Some(snapshot) = SHOWN.read().clone() else { return };
        for destination in &snapshot.destinations {
            for (state, count) in &destination.deliveries {
                let name = KeyValue::new("destination", destination.name.clone());
                observer.observe(*count, &[name, KeyValue::new("state", *state)]);
            }
        }
    });
    gauge.build();
}
