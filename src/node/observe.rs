//! What others see of the node: the gauges of a scrape, the dependencies of readiness, and what
//! recovery found.

use std::sync::Arc;

use super::Foundation;
use crate::clock::Clock;
use crate::config::SpoolDurability;
use crate::control::Running;
use crate::forward::{DestinationStatus, Forward};
use crate::http::Probe;
use crate::http::health::{Condition, Dependency};
use crate::index::Index;
use crate::spool::{DeliveryState, Spool};
use crate::telemetry::gauges::{DestinationGauges, Snapshot};
use crate::telemetry::listener::GaugeSource;

/// One line when nothing happened, louder ones for what a person must look at.
pub fn report_recovery(spool: &Spool) {
    let report = spool.recovery();
    if !report.lost.is_empty() {
        tracing::error!(
            lost = report.lost.len(),
            "acknowledged objects can't be read any more; see `relaypacs spool verify`"
        );
    }
    if report.set_aside > 0 || report.unnamed > 0 {
        tracing::warn!(
            set_aside = report.set_aside,
            unnamed = report.unnamed,
            "recovery put pieces that no record names into the spool's review folder"
        );
    }
    tracing::info!(replayed = report.replayed, rebuilt = report.rebuilt, "spool open");
}

/// Gathers the gauges' values when a scrape asks for them.
pub fn gauges(foundation: &Foundation, running: &Running) -> GaugeSource {
    let (spool, clock) = (foundation.spool.clone(), foundation.clock.clone());
    let (forward, index) = (running.forward.clone(), running.index.clone());
    Arc::new(move || {
        let (spool, clock) = (spool.clone(), clock.clone());
        let (forward, index) = (forward.clone(), index.clone());
        Box::pin(async move { snapshot(&spool, &*clock, &forward, &index).await })
    })
}

async fn snapshot(spool: &Spool, clock: &dyn Clock, forward: &Forward, index: &Index) -> Snapshot {
    let status = spool.status();
    let mut destinations = Vec::new();
    for destination in forward.destinations() {
        destinations.push(of_destination(spool, clock, destination).await);
    }
    Snapshot {
        spool_bytes: status.bytes,
        spool_objects: status.objects,
        spool_capacity_ratio: status.capacity_ratio,
        acked_object_missing: status.damaged,
        index_lag_seconds: index.lag().as_secs_f64(),
        destinations,
    }
}

async fn of_destination(spool: &Spool, clock: &dyn Clock, status: DestinationStatus) -> DestinationGauges {
    DestinationGauges {
        oldest_undelivered_seconds: oldest_undelivered(spool, clock, &status.name).await,
        up: status.up,
        deliveries: vec![
            ("queued", status.queued),
            ("sent", status.sent),
            ("verified", status.verified),
            ("deferred", status.deferred),
            ("poisoned", status.poisoned),
        ],
        name: status.name,
    }
}

/// Age of the oldest object that waits for a destination; entries are numbered as they came.
async fn oldest_undelivered(spool: &Spool, clock: &dyn Clock, destination: &str) -> f64 {
    let mut oldest = 0.0_f64;
    for state in [DeliveryState::Queued, DeliveryState::Deferred] {
        let Ok(first) = spool.deliveries(destination, state, None, 1).await else { continue };
        let Some(delivery) = first.first() else { continue };
        if let Ok(entry) = spool.state(delivery.entry).await {
            oldest = oldest.max(clock.now().since(entry.received_at).as_secs_f64());
        }
    }
    oldest
}

/// Readiness's lines beside the log's: none of them stops receiving.
pub fn dependencies(foundation: &Foundation, running: &Running) -> Probe {
    let (index, forward) = (running.index.clone(), running.forward.clone());
    let spool = foundation.spool.clone();
    let relaxed = foundation.config.spool.durability == SpoolDurability::Relaxed;
    Arc::new(move || {
        let (index, forward, spool) = (index.clone(), forward.clone(), spool.clone());
        Box::pin(async move {
            let database = index.ping().await.is_ok();
            let mut lines = vec![line("database", database, "it does not answer")];
            if spool.status().damaged > 0 {
                let detail = "acknowledged objects can't be read: see `relaypacs spool verify` and review/";
                lines.push(line("objects", false, detail));
            }
            if relaxed {
                lines.push(line("durability", false, "relaxed: answers do not wait for the disk"));
            }
            for destination in forward.destinations() {
                lines.push(line(&format!("destination {}", destination.name), destination.up, "down"));
            }
            lines
        })
    })
}

fn line(name: &str, up: bool, otherwise: &str) -> Dependency {
    Dependency {
        name: name.to_owned(),
        condition: if up { Condition::Up } else { Condition::Degraded },
        detail: (!up).then(|| otherwise.to_owned()),
    }
}
